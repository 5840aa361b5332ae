"""`uic verify`: every memory in the store against an offline fold of the same events."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from jobs.event_log import Dead, FileLog, TopicLog, payloads
from jobs.score import open_pair
from jobs.settings import KafkaSettings
from uic.errors import BadInput, CorruptMemory
from uic.fold import Logged, fold_log
from uic.update import Rules, is_idle

if TYPE_CHECKING:
    from uic.bundle import Bundle
    from uic.memory import UserMemory

__all__ = ["payloads", "verify", "verify_command"]

Oracle = Literal["numpy", "onnx"]


@dataclass
class Verdict:
    """What a verification found. `mismatches` maps a user to what differs; `idle` counts users who had left and might."""

    users: int = 0
    worst: float = 0.0
    tied: int = 0
    idle: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    mismatches: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.mismatches and self.tied <= max(1, self.users // 100)


def verify_command(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Option(help="The bundle that the job used.")],
    events: Annotated[Path | None, typer.Option(help="Folder of event files, as given to `uic job run`.")] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Fold the whole events topic instead, up to where it ends now.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path of uic.yaml.")] = None,
    oracle: Annotated[Oracle, typer.Option(help="What takes the steps: numpy in float64, or ONNX Runtime.")] = "onnx",
    lateness_s: Annotated[int | None, typer.Option(help="As given to the job.")] = None,
    accept_late: Annotated[bool, typer.Option(help="As given to the job.")] = False,
    idle_after_s: Annotated[int | None, typer.Option(help="As given to the job.")] = None,
    most: Annotated[int, typer.Option(help="How many mismatches to print.")] = 10,
) -> None:
    """Fold the events offline, without Flink, and compare every user's memory in the store.

    The job and `uic store follow` must have finished with these events. Exit code 0 where all agree, 1 where any differs.

    Example: uic verify --kafka --bundle bundles/first --store store
    """
    if (events is None) == (not kafka):
        raise BadInput("uic verify: expected the events from one place, either --events FOLDER or --kafka")
    stream = ctx.obj.stream
    idle_after_s = stream.idle_after_s if idle_after_s is None else idle_after_s
    console = Console(soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    with console.status("folding the events"):
        verdict = verify(
            events or ctx.obj.kafka, bundle, store or ctx.obj.store.path, oracle=oracle,
            lateness_ms=1000 * (stream.lateness_s if lateness_s is None else lateness_s),
            max_ahead_ms=1000 * stream.max_ahead_s, accept_late=accept_late,
            idle_after_ms=None if idle_after_s is None else 1000 * idle_after_s,
        )  # fmt: skip
    console.print(
        f"events: {', '.join(f'{count:,} {outcome}' for outcome, count in sorted(verdict.outcomes.items())) or 'none'}"
    )
    console.print(f"users compared: {verdict.users:,} ({oracle}, {time.monotonic() - started:.1f} s)")
    console.print(f"largest difference: {verdict.worst:.3f} of the tolerance (1e-5 + 1e-5 of the value)")
    if verdict.tied:
        console.print(f"users with a tie of channels, not compared: {verdict.tied}")
    if verdict.idle:
        console.print(f"users idle at the end of the log, who have left: {verdict.idle}")
    console.print(f"mismatches: {len(verdict.mismatches)}")
    for user, what in list(verdict.mismatches.items())[:most]:
        console.print(f"  user {user!r}: {what}")
    if not verdict.holds:
        raise typer.Exit(1)


def verify(
    events: Path | KafkaSettings,
    bundle: Path,
    store: Path,
    *,
    oracle: Oracle,
    lateness_ms: int,
    max_ahead_ms: int,
    accept_late: bool = False,
    idle_after_ms: int | None = None,
) -> Verdict:
    """Fold event files, or the events topic, offline and compare with the store; users in only one of both are mismatches."""
    from uic.oracle import NumpyStep
    from uic.runtime import OnnxStep
    from uic.tolerance import TIE_MARGIN

    log = TopicLog(events) if isinstance(events, KafkaSettings) else FileLog(events)
    opened, memories = open_pair(bundle, store)
    rules = Rules(lateness_ms=lateness_ms, accept_late=accept_late, idle_after_ms=idle_after_ms)
    verdict = Verdict()
    newest_ms = 0

    def valid(only: set[str] | None = None) -> Iterator[Logged]:
        nonlocal newest_ms
        for each in log.events(opened.accepted, max_ahead_ms):
            if isinstance(each, Dead):
                verdict.outcomes["dead"] += only is None
            elif only is None or each.event.user_id in only:
                newest_ms = max(newest_ms, each.log_time_ms)
                yield each

    try:
        step = NumpyStep.of(opened) if oracle == "numpy" else OnnxStep(opened)
        folded = fold_log(opened.updater(step, rules), valid())
        verdict.outcomes.update({outcome.value: count for outcome, count in folded.outcomes.items()})
        expected = {user: memory for user, memory in folded.memories.items() if memory.sequence > 0}
        verdict.users = len(expected)
        differing: dict[str, str] = {}
        for user, memory in expected.items():
            blob = memories.read(user)
            if blob is None and is_idle(memory.log_time_ms, newest_ms, rules):
                verdict.idle += 1
                continue
            try:
                what, worst = _compare(opened, memory, blob)
            except CorruptMemory as error:
                raise type(error)(f"user {user!r}: {error}") from error
            if what is None:
                verdict.worst = max(verdict.worst, worst)
            elif worst > 1.0:
                differing[user] = what
            else:
                verdict.mismatches[user] = what
        margins = fold_log(opened.updater(NumpyStep.of(opened), rules), valid(set(differing))).margins if differing else {}
        for user, what in differing.items():
            if margins[user] < TIE_MARGIN:
                verdict.tied += 1
            else:
                verdict.mismatches[user] = what
        if isinstance(log, TopicLog):
            for user, partitions in log.divided.items():
                verdict.mismatches[user] = f"has events in partitions {sorted(partitions)}, so nothing says their order"
        strangers = set(memories.users()) - set(expected)
        verdict.mismatches |= dict.fromkeys(sorted(strangers), "in the store, but no event of theirs was to be applied")
    finally:
        memories.close()
    return verdict


def _compare(bundle: "Bundle", expected: "UserMemory", blob: bytes | None) -> tuple[str | None, float]:
    """What differs, None if nothing does, and by how much the tensors do in units of the tolerance."""
    from uic.tolerance import memory_excess

    if blob is None:
        return f"not in the store, expected a memory after {expected.sequence} events", 0.0
    found = bundle.codec.decode(blob)
    if found.sequence != expected.sequence:
        return f"{found.sequence} events applied, expected {expected.sequence}", 0.0
    if (found.last_time_ms, found.fingerprints) != (expected.last_time_ms, expected.fingerprints):
        return "last event time or fingerprints differ: other events were applied", 0.0
    if found.log_time_ms != expected.log_time_ms:
        return f"taken in by the log at {found.log_time_ms}, expected {expected.log_time_ms}", 0.0
    by_tensor = memory_excess(bundle.layout, found.state_F[None], expected.state_F[None])
    tensor, worst = max(((name, float(value[0])) for name, value in by_tensor.items()), key=lambda pair: pair[1])
    if worst > 1.0:
        return f"{tensor} differs by {worst:.1f} of the tolerance after {found.sequence} events", worst
    return None, worst
