"""`uic dlq list|replay`: the events that a job did not apply, with their reasons, and the way to send them again."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from uic.errors import BadInput

if TYPE_CHECKING:
    from jobs.letter_topics import Kind, TopicLetter
    from jobs.settings import KafkaSettings

dlq_app = typer.Typer(help="Events that were not applied: dead letters, late events, duplicates.", no_args_is_help=True)
_SHOWN = 20


@dlq_app.callback()
def _dlq() -> None:
    """Events that were not applied: dead letters, late events, duplicates."""


@dlq_app.command("list")
def list_command(
    ctx: typer.Context,
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")] = None,
    kafka: Annotated[bool, typer.Option("--kafka", help="The letters in Kafka, of a job on a cluster, as of now.")] = False,
    kind: Annotated[Literal["dead", "late", "duplicate"] | None, typer.Option(help="Only these.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason, such as bad_json.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many, -1 for all; default: 20, and all with --raw.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the original bytes alone, one event a line.")] = False,
) -> None:
    """List the events that were not applied, where they stood, why, and their first bytes.

    Example: uic dlq list --job-dir job --kind dead --limit 5
    """
    from uic.letters import LetterBox

    if kafka and job_dir is not None:
        raise BadInput("expected one of --job-dir and --kafka, got both")
    if kafka:
        if kind == "duplicate":
            raise BadInput("--kind duplicate: a job on a cluster counts duplicates and keeps none of them")
        _list_kafka(ctx.obj.kafka, kind, reason, limit, raw=raw)
        return
    box = LetterBox((job_dir or ctx.obj.stream.job_dir) / "letters.sqlite", writable=False)
    if raw:
        for letter in box.letters(kind, reason, -1 if limit is None else limit):
            _print_raw(letter.payload)
        return
    table = Table("file", "byte", "kind", "user", "why", "event")
    for letter in box.letters(kind, reason, _SHOWN if limit is None else limit):
        table.add_row(
            letter.source, str(letter.offset), letter.kind, letter.user_id or "", letter.detail, _first(letter.payload)
        )
    _print(box.counts(), table)


@dlq_app.command("replay")
def replay_command(
    ctx: typer.Context,
    kind: Annotated[Literal["late", "dead"], typer.Option(help="Which letters: dead, or late with --accept-late.")] = "dead",
    reason: Annotated[str | None, typer.Option(help="Only those with this reason, such as behaviour_not_accepted.")] = None,
    accept_late: Annotated[bool, typer.Option("--accept-late", help="Apply them however late they are.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send and remember nothing.")] = False,
    job_dir: Annotated[Path | None, typer.Option(help="With --out: the folder of the job on this machine.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write an event file instead, for the job on this machine.")] = None,
) -> None:
    """Send letters to the events topic again: the original bytes under the original key, each letter once.

    What was sent is remembered under the consumer group GROUP-replay, reason by reason, once the broker has acknowledged it.
    A kill in between sends up to 1,000 letters again rather than losing one; the job drops those among its users' last events.
    A letter whose event is still wrong becomes a new letter. With --accept-late each event carries a header that lets the job
    apply it whatever its time, and no other event is touched.

    For the job on this machine, --out writes the letters as one more event file, whose name must sort after the others; late
    ones are applied if the job is then run with --accept-late.

    Example: uic dlq replay --kind late --accept-late --dry-run
    """
    if limit is not None and limit < 0:
        raise BadInput(f"--limit: expected at least 0, got {limit}")
    if out is None:
        if job_dir is not None:
            raise BadInput("--job-dir: the job on this machine reads files: say which to write, --out EVENTS/zz-replay.jsonl")
        _replay_kafka(ctx.obj.kafka, kind, reason, accept_late=accept_late, limit=limit, dry_run=dry_run)
        return
    from jobs.replay import to_file

    if dry_run:
        raise BadInput("--dry-run: not with --out; `uic dlq list --job-dir` shows the letters")
    written, cut = to_file(
        job_dir or ctx.obj.stream.job_dir, out, kind=kind, reason=reason, accept_late=accept_late, limit=limit
    )
    typer.echo(f"{written:,} letters written: {out}" if written else "no letter to replay: nothing was written")
    if cut:
        typer.echo(f"{cut:,} were too large to be kept whole and cannot be replayed")
    if written and accept_late:
        typer.echo(
            "now run the job with --accept-late: without it they would be late again, with it every late event is applied"
        )


def _list_kafka(kafka: "KafkaSettings", kind: "Kind | None", reason: str | None, limit: int | None, *, raw: bool) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    table = Table("topic", "offset", "kind", "came from", "key", "why", "event")
    topics = {"late": kafka.late, "dead": kafka.dead}
    shown, most = 0, (-1 if raw else _SHOWN) if limit is None else limit
    for letter in _letters(kafka, kind):
        counts[letter.kind, letter.reason] += 1
        if reason not in (None, letter.reason) or 0 <= most <= shown:
            continue
        shown += 1
        if raw:
            _print_raw(letter.payload or b"")
            continue
        table.add_row(
            f"{topics[letter.kind]}-{letter.partition}", str(letter.position), letter.kind, f"{letter.source} {letter.offset}",
            _first(letter.key), letter.detail, _first(letter.payload),
        )  # fmt: skip
    if not raw:
        _print(dict(sorted(counts.items())), table)


def _letters(kafka: "KafkaSettings", kind: "Kind | None") -> "Iterator[TopicLetter]":
    from jobs import topics
    from jobs.letter_topics import LetterTopics

    kinds: list[Kind] = ["dead", "late"] if kind is None else [kind]
    topics.check(kafka, [kafka.late, kafka.dead])
    with LetterTopics(kafka) as reader:
        for each in kinds:
            for partition in reader.partitions(each):
                yield from reader.letters(each, partition)


def _replay_kafka(
    kafka: "KafkaSettings", kind: "Kind", reason: str | None, *, accept_late: bool, limit: int | None, dry_run: bool
) -> None:
    from jobs import topics
    from jobs.replay import refuse_late, to_topic

    refuse_late(kind, accept_late=accept_late)
    topics.check(kafka, [kafka.events, kafka.late, kafka.dead])
    sent = to_topic(kafka, kind, reason=reason, accept_late=accept_late, limit=limit, dry_run=dry_run)
    what = ", ".join(f"{count:,} {of_reason}" for of_reason, count in sorted(sent.items()))
    typer.echo(f"{'would be sent' if dry_run else 'sent'} to {kafka.events}: {what or 'nothing'}")


def _print(counts: dict[tuple[str, str], int], table: Table) -> None:
    # No markup: what was refused may look like it, and [/b] alone would end the list with a traceback.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not counts:
        console.print("no event was left out")
        return
    summary = Table("kind", "reason", "events")
    for (kind, reason), count in counts.items():
        summary.add_row(kind, reason, f"{count:,}")
    console.print(summary)
    console.print(table)


def _print_raw(payload: bytes) -> None:
    import sys

    sys.stdout.buffer.write(payload.rstrip(b"\r\n") + b"\n")


def _first(payload: bytes | None) -> str:
    if payload is None:
        return "none"
    text = payload[:80].decode("utf-8", "backslashreplace").rstrip()
    # A terminal obeys control characters; a list only shows them.
    return "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in text)
