"""`uic store`: an online store written from the snapshots topic, looked at, moved and repaired."""

import datetime
import re
import signal
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.settings import DaysSettings, KafkaSettings, Settings
from jobs.store.repair_command import repair_command
from jobs.store.whole_commands import copy_command, export_command, import_command, stats_command
from uic.clock import Days
from uic.errors import BadInput, UicError
from uic.memory import Numbers
from uic.store.place import redis_url, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.store.follow import Follower
    from uic.bundle import Bundle
    from uic.store.apply import FollowingStore
    from uic.store.contract import ReadableStore

store_app = typer.Typer(help="The online store: written from the snapshots topic, and looked at.", no_args_is_help=True)
StoreOption = Annotated[
    Path | None, typer.Option(help="The online store, a folder or a redis:// URL; default: store.path of uic.yaml.")
]


@store_app.callback()
def _store() -> None:
    """The online store: written from the snapshots topic, and looked at."""


store_app.command("stats")(stats_command)
store_app.command("copy")(copy_command)
store_app.command("export")(export_command)
store_app.command("import")(import_command)
store_app.command("repair")(repair_command)


@store_app.command("follow")
def follow_command(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Option(help="The bundle that the job uses: it says which memories fit.")],
    store: StoreOption = None,
    shards: Annotated[
        int | None, typer.Option(help="Make the store of so many shards; default: one, or as it was made.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Write one shard only, such as 0/2: other processes write the rest.")
    ] = None,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop when all that is there now is applied.")] = False,
    job_dir: Annotated[
        Path | None, typer.Option(help="The job's folder, which knows its rollbacks; default: stream.job_dir.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve metrics to Prometheus on this port; 0: any free one.")] = None,
) -> None:
    """Apply the snapshots topic to the store, and go on until Ctrl-C. Killed at any moment, it goes on exactly where it was.

    How far it is stands in the store. Memories that cannot be used are passed over and kept in <store>.letters.sqlite.

    Example: uic store follow --bundle bundles/first --store store --shard 0/2
    """
    from jobs.store.begin import know_generations
    from jobs.store.display import Display, summary
    from jobs.store.follow import Follower, Letters
    from jobs.store.topic import opened
    from operators import metrics
    from uic.bundle import Bundle

    settings: Settings = ctx.obj
    path = store or settings.store.path
    model = Bundle.open(bundle)
    with ExitStack() as stack:
        topic = stack.enter_context(opened(settings.kafka))
        partitions, numbers = topic.source().partitions, settings.store.numbers
        stores = open_stores(path, model, partitions, shards=shards, shard=shard, days=settings.days, numbers=numbers)
        for each in stores:
            stack.callback(each.close)
        letters = Letters(letters_of(path), settings.kafka.snapshots)
        stack.callback(letters.close)
        display = stack.enter_context(Display())
        know_generations(stores, topic, job_dir or settings.stream.job_dir, display.say)
        if metrics_port is not None:
            display.say(f"metrics: http://127.0.0.1:{metrics.serve(metrics_port)}/metrics")
        follower = Follower(
            topic,
            stores,
            model.codec,
            letters=letters,
            metrics=metrics.FollowMetrics(),
            until_end=until_end,
            say=display.say,
            show=display.show,
        )
        with _stopped_by_signals(follower):
            is_at_end = follower.run()
    typer.echo(f"{words(path)}: {summary(follower.progress)}")
    if until_end and not is_at_end:
        raise typer.Exit(130)


@contextmanager
def _stopped_by_signals(follower: "Follower") -> "Iterator[None]":
    before = {each: signal.signal(each, lambda *_: follower.stop()) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def open_stores(
    path: Path,
    bundle: "Bundle",
    partitions: int,
    *,
    shards: int | None,
    shard: str | None,
    days: DaysSettings = DaysSettings(),
    numbers: Numbers = "float32",
) -> Sequence["FollowingStore"]:
    """The stores that this process writes: all there are, or the one shard asked for; made where they are not there yet.

    Redis needs no shards: there, they say which partitions this process applies.
    """
    from uic.small import Shrink
    from uic.store import sharded
    from uic.store.contract import Shard
    from uic.store.rocksdb import RocksStore

    number = None
    shrink = Shrink(numbers, bundle.layout)
    if shard is not None:
        number, of = parse_shard(shard)
        if shards not in (None, of):
            raise BadInput(f"--shards {shards} and --shard {shard}: expected one number of shards, got two")
        shards = of
    if (url := redis_url(path)) is not None:
        from uic.store.redis_store import RedisStore

        part = None if number is None else Shard(number=number, shards=shards or 1, partitions=partitions)
        return [RedisStore.create_or_open(url, bundle.identity, zone=days.zone, kept=days.kept, shrink=shrink, shard=part)]
    if sharded.is_sharded(path):
        shards = sharded.read(path).shards if shards is None else shards
    if shards is None or (shards == 1 and number is None and not sharded.is_sharded(path)):
        return [RocksStore.create_or_open(path, bundle.identity, zone=days.zone, kept=days.kept, shrink=shrink)]
    sharded.make(path, shards=shards, partitions=partitions)
    if number is not None:
        return [sharded.open_shard(path, bundle.identity, number, zone=days.zone, kept=days.kept, shrink=shrink)]
    return sharded.ShardedStore.create_or_open(
        path, bundle.identity, shards=shards, partitions=partitions, zone=days.zone, kept=days.kept, shrink=shrink
    ).shards


def parse_shard(text: str) -> tuple[int, int]:
    """`0/2` to 0 and 2; raises BadInput for what is no such part."""
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise BadInput(f"--shard: expected a number and how many there are, from 0/2 to 1/2 for two shards; got {text!r}")
    return int(match[1]), int(match[2])


def letters_of(path: Path) -> Path:
    """Where a follower keeps what it refused: beside the folder, which is RocksDB's; for a store in Redis, here."""
    url = redis_url(path)
    if url is not None:
        return Path(f"{url.name}.letters.sqlite")
    return path.with_name(f"{path.name}.letters.sqlite")


@store_app.command("status")
def status_command(ctx: typer.Context, store: StoreOption = None) -> None:
    """Show whose memories a store holds, the days it keeps, its generations, which topic it follows, and what was refused.

    Example: uic store status --store store
    """
    from uic.letters import LetterBox
    from uic.store.sharded import open_to_read, parts_of

    settings: Settings = ctx.obj
    path = store or settings.store.path
    console = Console(soft_wrap=True, highlight=False, markup=False)
    memories = open_to_read(path)
    try:
        parts = parts_of(memories)
        kind = f"{len(parts)} RocksDB" if redis_url(path) is None else "Redis"
        layout, lineage = memories.identity
        console.print(f"{words(path)}: layout {layout}, lineage {lineage}, {kind}, memories in {memories.numbers}")
        if (lost_ms := getattr(memories, "lost_ms", None)) is not None:
            lost = datetime.datetime.fromtimestamp(lost_ms / 1000, tz=datetime.UTC)
            console.print(f"Redis was found to have lost memories at {lost:%F %T %Z}; `uic store repair` brings them back")
        _print_days(console, memories)
        _print_positions(console, parts, settings.kafka)
    finally:
        memories.close()
    if letters_of(path).exists():
        box = LetterBox(letters_of(path), writable=False)
        for (_, reason), count in box.counts().items():
            console.print(f"refused: {count:,} {reason} ({letters_of(path)})")
        box.close()


def _print_days(console: Console, store: "ReadableStore") -> None:
    zone = store.zone
    kept = store.days_kept()
    words = f"{kept[0]} to {kept[-1]}" if kept else "none yet"
    console.print(f"days kept: {words} ({zone}); `uic user show USER --as-of DAY` reads as of one")
    cuts = store.lineage.cuts
    for before, (generation, cut_ms) in zip((None, *cuts), cuts, strict=False):
        day = Days(zone).day_of(cut_ms)
        earlier = "earlier generations" if before is None else f"generation {before.generation} and earlier ones"
        console.print(f"generation {generation}: begun by a rollback to {day}; {earlier} count up to there")


def _print_positions(console: Console, parts: Sequence["FollowingStore"], kafka: KafkaSettings) -> None:
    source = next((part.source for part in parts if part.source is not None), None)
    if source is None:
        console.print("it follows no topic: a job writes it, or nothing has yet")
        return
    console.print(f"follows {source.topic} ({source.partitions} partitions, id {source.topic_id}, cluster {source.cluster_id})")
    ends: dict[int, int] = {}
    try:
        from jobs.store.topic import opened

        with opened(kafka.model_copy(update={"snapshots": source.topic})) as topic:
            if topic.source() == source:
                ends = {partition: at.end for partition, at in topic.reach(range(source.partitions)).items()}
            else:
                console.print(
                    f"warning: {kafka.bootstrap} has another topic of this name; `uic store follow` will begin with it"
                )
    except UicError as error:
        console.print(f"how far the topic goes is not known: {error}")
    table = Table("shard", "partition", "next offset", "end of topic", "to go", "last write")
    for number, part in enumerate(parts):
        for partition, position in part.positions().items():
            end = ends.get(partition)
            written = datetime.datetime.fromtimestamp(position.written_ms / 1000, tz=datetime.UTC)
            table.add_row(
                str(number),
                str(partition),
                f"{position.offset:,}",
                "?" if end is None else f"{end:,}",
                "?" if end is None else f"{max(0, end - position.offset):,}",
                written.isoformat(sep=" ", timespec="seconds"),
            )
    console.print(table)
