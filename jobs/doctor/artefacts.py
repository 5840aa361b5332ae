"""Do bundle, store and job folder fit each other?"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.doctor.finding import Finding, ok, problem
from jobs.folder import JobFolder
from jobs.record import JobRecord
from operators import condemned
from uic.errors import UicError

if TYPE_CHECKING:
    from uic.bundle import Bundle


def open_bundle(path: Path | None) -> tuple["Bundle | None", Finding]:
    """The bundle, opened and loaded once as a worker would, or why not."""
    if path is None:
        return None, Finding("bundle", "absent", "none named, and no job was started yet", "--bundle names one")
    from uic.bundle import Bundle
    from uic.runtime import OnnxStep

    try:
        bundle = Bundle.open(path)
        OnnxStep(bundle)
    except UicError as error:
        return None, problem("bundle", error)
    except Exception as error:  # whatever ONNX Runtime makes of a graph
        return None, problem("bundle", f"{path}: step.onnx cannot be loaded: {error}", "export it again")
    manifest = bundle.manifest
    return bundle, ok("bundle", f"{path}: version {manifest.version}, layout {manifest.layout}, lineage {manifest.lineage}")


def read_record(job_dir: Path) -> tuple[JobFolder | None, JobRecord | None, Finding]:
    """The job's folder and its record, or why there is none; nothing is made."""
    if not job_dir.exists():
        return None, None, Finding("job", "absent", f"{job_dir}: no job was started yet")
    try:
        folder = JobFolder(job_dir, make=False)
        record = folder.record()
    except UicError as error:
        return None, None, problem("job", error)
    if record is None:
        return folder, None, Finding("job", "absent", f"{job_dir}: no job was started yet")
    where = "embedded" if record.cluster is None else f"{record.cluster.name} on {record.cluster.url}"
    return folder, record, ok("job", f"{job_dir}: run {record.run}, {where}, {record.backend}")


def check_state(folder: JobFolder, record: JobRecord, bundle: "Bundle | None") -> Iterator[Finding]:
    """Whether there is something to go on from, and whether the bundle may go on from it."""
    if bundle is not None:
        for name, new in bundle.identity._asdict().items():
            if (old := getattr(record, name)) != new:
                yield problem(
                    "job",
                    f"{folder.path}: its state was made by a bundle of {name} {old} ({record.bundle}), "
                    f"{bundle.path} is of {new}",
                    f"go on with a bundle of that {name}, or use another --job-dir and replay the log into it",
                )
    passed_over: list[str] = []
    newest = folder.newest_checkpoint(passed_over.append)
    for text in passed_over:
        yield Finding("job", "warning", text, "nothing: an older one is taken")
    for entry in condemned.read(folder.path):
        yield Finding("job", "warning", f"{entry.checkpoint} is condemned: {entry.why}", "nothing: it is passed over")
    if newest is None:
        yield Finding("job", "warning", f"{folder.path}: no complete checkpoint", "resuming would read the log from its start")
    else:
        yield ok("job", f"goes on from {newest.relative_to(folder.path)}; `uic checkpoint inspect` reads its memories")


def check_store(path: Path, bundle: "Bundle | None") -> Iterator[Finding]:
    """Whether the online store opens and holds memories of the bundle."""
    from uic.store.opening import check_identity
    from uic.store.sharded import is_there, open_to_read

    try:
        if not path.exists() and not is_there(path):
            yield Finding("store", "absent", f"{path}: no store yet", "`uic job run` or `uic store follow` makes it")
            return
        store = open_to_read(path)
    except UicError as error:
        yield problem("store", error)
        return
    try:
        if bundle is not None:
            check_identity(store.identity, bundle.identity, path)
        user = next(iter(store.users()), None)
        if user is not None and bundle is not None and (blob := store.read(user)) is not None:
            bundle.published.decode(blob)
        holds = "nobody yet" if user is None else "memories" + (" that fit the bundle" if bundle is not None else "")
        yield ok("store", f"{path}: holds {holds}, layout {store.identity.layout}, in {store.numbers}")
    except UicError as error:
        yield problem("store", error)
    finally:
        store.close()
