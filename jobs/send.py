"""`uic events produce`: event files or a generated load into the events topic."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.live_line import LiveLine
from uic.errors import BadInput

if TYPE_CHECKING:
    from jobs.produce import Produced
    from jobs.settings import KafkaSettings
    from uic.synthetic.block import Ids
    from uic.synthetic.spec import SyntheticSpec

Record = tuple[bytes | None, bytes]
_SLOW_S = 1.0


def produce_command(
    ctx: typer.Context,
    events: Annotated[Path | None, typer.Option(help="Send this folder's event files (*.jsonl), by (file name, line).")] = None,
    generate: Annotated[
        list[str] | None, typer.Option(help="Send synthetic events: name=value as for `uic events generate`; may be repeated.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="With --generate: draw from this bundle's vocabulary.")] = None,
    rate: Annotated[float | None, typer.Option(help="Events a second, evenly paced; default: as fast as it goes.")] = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="As fast as it goes, said aloud; not together with --rate.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="End after so many events.")] = None,
    expected: Annotated[
        Path | None, typer.Option(help="With --generate: write here what must become of what was sent.")
    ] = None,
) -> None:
    """Send events to the events topic; ends with exit code 2 unless the broker acknowledged every one of them.

    The key is the event's user_id, so that each user stays in one partition; a line in which none can be read is sent without
    a key, and the job makes a dead letter of it. Sent twice is sent twice: what the job no longer remembers is applied again.
    Ctrl-C ends it, after what was handed over is acknowledged.

    Example: uic events produce --events events --rate 1000
    """
    from jobs import topics
    from jobs.produce import produce

    kafka: KafkaSettings = ctx.obj.kafka
    if (events is None) == (generate is None):
        raise BadInput(
            "expected one of --events FOLDER and --generate name=value, " + ("got both" if events else "got neither")
        )
    if rate is not None and (at_once or rate <= 0):
        raise BadInput(f"--rate: expected a number above 0, without --at-once; got {rate:g}")
    if limit is not None and limit < 0:
        raise BadInput(f"--limit: expected at least 0, got {limit}")
    if generate is None and (bundle is not None or expected is not None):
        raise BadInput("--bundle and --expected belong to --generate")
    spec, ids = (None, None) if generate is None else _spec(generate, bundle, limit)
    records = read_folder(events) if events is not None else generated(spec, ids)
    topics.check(kafka, [kafka.events])
    with Progress(rate) as progress:
        done = produce(kafka, records if limit is None else islice(records, limit), rate=rate, on_progress=progress.show)
    _summary(done, rate)
    if spec is not None and expected is not None:
        _write_expected(spec, ids, done.delivered, expected)
    if done.is_interrupted:
        raise typer.Exit(130)


def key_of(payload: bytes) -> bytes | None:
    """The Kafka key that an event line asks for: its user, None where none can be read.

    >>> key_of(b'{"user_id": 7}'), key_of(b'{"user_id": "u1", "item_id": "?"}'), key_of(b'{"user_id": "u1')
    (b'7', b'u1', None)
    """
    return next(keyed([payload]))[0]


def keyed(payloads: Iterable[bytes]) -> Iterator[Record]:
    """Each payload behind its key."""
    import msgspec

    class Event(msgspec.Struct, gc=False):
        user_id: str | int

    decode = msgspec.json.Decoder(Event).decode
    for payload in payloads:
        try:
            key = str(decode(payload).user_id).encode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            yield None, payload
        else:
            yield key or None, payload


def read_folder(folder: Path) -> Iterator[Record]:
    """The events of a folder in the order (file name, line); raises BadInput at once where there is no such folder."""
    from jobs.verify import payloads

    if not folder.is_dir():
        raise BadInput(f"--events: {folder}: expected a folder of event files (*.jsonl), but there is none")
    return keyed(payloads(folder))


def generated(spec: "SyntheticSpec | None", ids: "Ids | None") -> Iterator[Record]:
    """The events of a spec, with their keys."""
    from uic.synthetic.generate import generate

    assert spec is not None
    for block in generate(spec, ids):
        yield from zip(block.keys, block.payloads, strict=True)


class Progress(LiveLine):
    """How much is sent; `rate` is what was asked for."""

    def __init__(self, rate: float | None) -> None:
        super().__init__()
        self._rate = rate

    def show(self, done: "Produced") -> None:
        line = f"{done.seconds:5.0f} s  {done.sent:,} sent  {done.delivered:,} acknowledged  {_rate(done):,.0f} events/s"
        if self._rate is not None and done.behind_s > _SLOW_S:
            line += f"  cannot keep up with {self._rate:g} a second: {done.behind_s:.0f} s behind at worst"
        self.move(line)


def _spec(words: list[str], bundle: Path | None, limit: int | None) -> "tuple[SyntheticSpec, Ids | None]":
    import dataclasses

    from jobs.generate import spec_of

    spec, ids = spec_of(words, bundle)
    if limit is not None:
        spec = dataclasses.replace(spec, events=limit if spec.events is None else min(limit, spec.events))
    return spec, ids


def _rate(done: "Produced") -> float:
    return done.delivered / done.seconds if done.seconds else 0.0


def _summary(done: "Produced", rate: float | None) -> None:
    typer.echo(
        f"{done.sent:,} events sent, {done.delivered:,} acknowledged in {done.seconds:.1f} s ({_rate(done):,.0f} a second)"
    )
    typer.echo("by partition: " + (", ".join(f"{place}: {count:,}" for place, count in done.per_partition.items()) or "none"))
    if rate is not None and done.behind_s > _SLOW_S:
        typer.echo(f"the rate of {rate:g} a second was not kept: {done.behind_s:.1f} s behind at worst")


def _write_expected(spec: "SyntheticSpec", ids: "Ids | None", count: int, path: Path) -> None:
    """Made again rather than counted while sending: a signal may have ended that anywhere."""
    import dataclasses

    from uic.artefact import write_atomically
    from uic.synthetic.generate import generate
    from uic.synthetic.tally import Tally

    tally = Tally()
    for block in generate(dataclasses.replace(spec, events=count), ids):
        tally.add(block)
    write_atomically(path, tally.as_json())
