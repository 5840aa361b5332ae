"""From settings to a finished run: checks, resume, the JVM, the watch over it, the savepoint at the end."""

import dataclasses
import os
import time
from contextlib import suppress
from pathlib import Path

from jobs.checkpoints import form_of
from jobs.console import Display
from jobs.folder import JobFolder, JobRecord
from jobs.gateway import start_jvm
from jobs.java import find_java
from jobs.job_settings import JobSettings
from jobs.plan import choose_plan
from jobs.run import Run, Summary
from operators import failure, progress
from uic.bundle import Bundle
from uic.errors import BadInput, JobError, StoreError
from uic.small import Shrink
from uic.store.opening import check_identity, check_numbers
from uic.store.place import absolute
from uic.store.sharded import is_there, open_to_read

BACKENDS = ("hashmap", "rocksdb")


def flink_options(pairs: list[str]) -> dict[str, str]:
    """Options key=value as a dictionary; raises BadInput for one without '='."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"--flink {pair}: expected key=value, such as state.backend.type=rocksdb")
        options[key.strip()] = value.strip()
    return options


def launch(settings: JobSettings) -> Summary:
    """Run the job until its input is applied, or, watching, until a signal; then stop it with a savepoint."""
    started = time.monotonic()
    bundle = _check(settings)
    with Display() as display:
        folder = JobFolder(settings.job_dir)
        with folder.locked(settings.wait_s, display.say) as lock:
            java = find_java(dict(os.environ))
            if java.note is not None:
                display.notice(java.note)
            _check_store(settings, bundle)
            record, restore_from = _plan_run(settings, folder, bundle, display)
            folder.remove_old_runs()
            folder.write(record)
            for name in (failure.FILE, progress.READ_FILE, progress.UPDATE_FILE, progress.STOP_FILE):
                (folder.path / name).unlink(missing_ok=True)
            options = settings.flink.get("env.java.opts.all", "")
            choice = choose_plan(settings.plan, settings.jars, keeps=settings.keep_at is not None)
            if choice.note is not None:
                display.say(choice.note)
            jvm = start_jvm(java.executable, log_dir=folder.logs, options=options, lock=lock, jars=choice.jars)
            try:
                folder.write(dataclasses.replace(record, jvm_pid=jvm.pid))
                run = Run(settings, choice, folder, record, jvm, display)
                run.start(bundle, restore_from)
                return run.watch(started)
            finally:
                jvm.stop()


def _check(settings: JobSettings) -> Bundle:
    if not settings.events.is_dir():
        raise BadInput(f"{settings.events}: expected a folder of event files (*.jsonl), but there is none")
    if settings.backend not in BACKENDS:
        raise BadInput(f"backend: expected one of {', '.join(BACKENDS)}, got {settings.backend}")
    if settings.checkpoint_interval_s < 0.1:
        raise BadInput(f"checkpoint_interval_s: expected at least 0.1 s, got {settings.checkpoint_interval_s}")
    for name in ("lateness_s", "max_ahead_s"):
        if getattr(settings, name) < 0:
            raise BadInput(f"{name}: expected seconds, 0 or more, got {getattr(settings, name)}")
    return Bundle.open(settings.bundle)


def _check_store(settings: JobSettings, bundle: Bundle) -> None:
    """Refuse a store of another layout, lineage or type of numbers here, rather than in the job after its start."""
    store = None
    if is_there(settings.store):
        # A store whose job died while making it cannot be read yet; the job finishes it.
        with suppress(StoreError):
            store = open_to_read(settings.store)
            store.close()
    if store is not None:
        check_identity(store.identity, bundle.identity, settings.store)
        check_numbers(store.numbers, Shrink(settings.numbers), settings.store)


def _plan_run(settings: JobSettings, folder: JobFolder, bundle: Bundle, display: Display) -> tuple[JobRecord, Path | None]:
    """The record of the run to come and the checkpoint it goes on from, None for a fresh start."""
    before = folder.record()
    store = absolute(settings.store)
    record = JobRecord(
        run=1 if before is None else before.run + 1,
        layout=bundle.identity.layout,
        lineage=bundle.identity.lineage,
        bundle_version=bundle.manifest.version,
        bundle=str(settings.bundle.absolute()),
        events=str(settings.events.absolute()),
        store=str(store),
        backend=settings.backend,
        launcher_pid=os.getpid(),
    )
    if before is None or not folder.candidates():
        return record, None
    advice = "Use it again, or another --job-dir and --store to apply the log from its beginning"
    for name in ("layout", "lineage"):
        old, new = getattr(before, name), getattr(record, name)
        if old != new:
            raise JobError(
                f"{folder.path}: its state was made by a bundle of {name} {old} ({before.bundle}), "
                f"{settings.bundle} is of {name} {new}. {advice}"
            )
    restore_from = folder.newest_intact_checkpoint(display.say, form_of(settings.bundle))
    if restore_from is None:
        return record, None
    if before.store != record.store:
        raise JobError(f"{folder.path}: its state was published to {before.store}, not to {store}. {advice}")
    if not is_there(store):
        raise JobError(
            f"{store}: the job goes on from a saved state, but its store is gone: users without new events would be missing. "
            "Put the store back, or use another --job-dir to apply the log from its beginning"
        )
    if before.events != record.events:
        display.notice(f"the events were read from {before.events} before; going on in {record.events} from the same position")
    if before.backend != record.backend and not restore_from.name.startswith("savepoint"):
        raise JobError(
            f"{folder.path}: its last state is a checkpoint of backend {before.backend}, which {record.backend} cannot read. "
            f"Run once with {before.backend} to its end, which leaves a savepoint for either"
        )
    display.say(f"going on from {restore_from.relative_to(folder.path)}")
    return record, restore_from
