"""What small memories cost in AUC and save in bytes: float32, float16 and int8, in RocksDB and in a real Redis.

    uic demo --out demo                                                  a trained bundle, and the data with its test samples
    python -m benchmarks.small --bundle demo/bundle --data demo/data --out benchmarks

Every test sample is scored from its user's memory at exactly its position, as a store of each kind would give it. AUC is
compared on the same samples; the interval is that of 2,000 draws of users. Bytes are those of a store of `users` live users,
whose memories are real ones, of the data's users at many moments: what Redis says it uses, before and after. Written: SMALL.md
and small.png.
"""

import json
import os
import platform
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.small_page import figure, page
from jobs.dev.redis_servers import RedisServers
from jobs.rollback.change import estimates
from model.data.dataset import Dataset
from model.training.histories import Histories, Places
from uic.bundle import Bundle
from uic.codec import Codec
from uic.memory import Float32, MemoryLayout, Numbers, UserMemory
from uic.models import COMPARED, Memory, memory_of, model_variant
from uic.runtime import OnnxScore, OnnxStep
from uic.small import Shrink
from uic.store.redis_store import RedisStore
from uic.store.rocksdb import RocksStore

KINDS: tuple[Numbers, ...] = ("float32", "float16", "int8")
DAY_MS = 86_400_000
START_MS = 1_795_305_600_000
_PAGE = 1000
Apart = dict[Numbers, Float32]
app = typer.Typer(help=__doc__, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """AUC on the test samples, how far it is from that of float32, and by how much probabilities are."""

    numbers: Numbers
    samples: int
    auc: float
    loss: float
    low: float
    high: float
    largest: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes a live user: of the memory alone, in RocksDB's files, in Redis with all it adds (`redis_long`: where ids have 36
    characters); and those of a daily copy."""

    numbers: Numbers
    users: int
    memory: int
    rocksdb: float
    redis: float
    redis_long: float
    rocksdb_copy: float
    redis_copy: float


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="A trained bundle.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on, as `uic data prepare` wrote it.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("benchmarks"),
    users: Annotated[int, typer.Option(help="Live users of the stores that are measured.")] = 20_000,
) -> None:
    """Measure both, and write the page."""
    opened, dataset = Bundle.open(bundle), Dataset.open(data)
    histories = Histories.of(dataset, opened.items, opened.categories)
    places = histories.places((histories.samples["split"] == "test").to_numpy(), opened.manifest.head_features)
    typer.echo(f"{places.samples:,} samples at {len(places):,} places")
    read_PF = memories_at(opened, histories, places.user_P, places.position_P)
    qualities, apart = quality(opened, places, histories, read_PF)
    for each in qualities:
        typer.echo(json.dumps(asdict(each)))
    draw = np.random.default_rng(1)
    moments = np.sort(draw.choice(len(histories.item_rows), min(users, len(histories.item_rows)), replace=False))
    user_R = np.searchsorted(histories.offsets, moments, side="right") - 1
    lived_RF = memories_at(opened, histories, user_R, moments - histories.offsets[user_R] + 1)
    blobs = encoded(opened, lived_RF)
    sizes = []
    for numbers in KINDS:
        sizes.append(size(opened, blobs, numbers))
        typer.echo(json.dumps(asdict(sizes[-1])))
    found = {
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu(),
            "python": platform.python_version(),
            "day": f"{datetime.now(tz=UTC):%F}",
        },
        "bundle": opened.manifest.version,
        "data": {"name": data.resolve().name, "events": len(histories.item_rows), "users": len(histories.users)},
        "quality": [asdict(each) for each in qualities],
        "sizes": [asdict(each) for each in sizes],
        "models": models(opened.manifest.embedding),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "SMALL.md").write_text(page(found))
    figure(found, apart, out / "small.png")


def memories_at(bundle: Bundle, histories: Histories, user_P: Any, position_P: Any) -> Float32:
    """The memories after so many events of each of these users, [P, F]; sorted by user, then position."""
    step = OnnxStep(bundle)
    states_PF: Float32 = np.empty((len(user_P), bundle.layout.size_F), dtype=np.float32)
    users, first_U = np.unique(user_P, return_index=True)
    last_U = np.append(first_U[1:], len(user_P))
    # Longest first, so that those who go on are the first rows.
    order = np.argsort(-position_P[last_U - 1], kind="stable")
    users, next_U, last_U = users[order], first_U[order].copy(), last_U[order]
    wanted = [set(position_P[a:b].tolist()) for a, b in zip(next_U, last_U, strict=True)]
    lengths_U = position_P[last_U - 1]
    rows = [histories.rows_of(int(user)) for user in users]
    states_UF = np.tile(bundle.initial.state_F, (len(users), 1))
    for t in range(int(lengths_U.max(initial=0)) + 1):
        for place in range(int(np.count_nonzero(lengths_U >= t))):
            if t in wanted[place]:
                states_PF[next_U[place]] = states_UF[place]
                next_U[place] += 1
        active = int(np.count_nonzero(lengths_U > t))
        if active:
            items, categories = (np.array([each[kind][t] for each in rows[:active]]) for kind in (0, 1))
            states_UF[:active] = step(states_UF[:active], items, categories)
    assert (next_U == last_U).all()
    return states_PF


def encoded(bundle: Bundle, states_PF: Float32) -> list[bytes]:
    """The memories as a job would publish them, of one day."""
    ring = np.random.default_rng(2).bytes(16 * bundle.layout.ring_size)
    memories = (
        UserMemory(state_F=state_F, fingerprints=ring, sequence=1, last_time_ms=START_MS, log_time_ms=START_MS)
        for state_F in states_PF
    )
    return [bundle.codec.encode(memory) for memory in memories]


def quality(bundle: Bundle, places: Places, histories: Histories, read_PF: Float32) -> tuple[list[Quality], Apart]:
    """Each kind against float32 on the same samples, and how far every probability is apart."""
    score, blobs = OnnxScore(bundle), encoded(bundle, read_PF)
    mask = places.mask_PN
    scores = []
    for numbers in KINDS:
        kept = Shrink(numbers, bundle.layout)(blobs)
        states_PF = np.stack([bundle.published.decode(blob).state_F for blob in kept])
        parts = []
        for start in range(0, len(places), _PAGE):
            rows = np.arange(start, min(start + _PAGE, len(places)))
            part = places.take(rows)
            parts.append(score(states_PF[rows], part.item_PN, part.category_PN, part.mask_PN, part.features_PNC))
        scores.append(np.concatenate(parts)[mask])
    names = histories.users[np.broadcast_to(places.user_P[:, None], mask.shape)[mask]].astype(str).tolist()
    found_KB = estimates(np.stack(scores).astype(np.float64), places.label_PN[mask].astype(np.int8), names)
    losses_KB = found_KB[0] - found_KB
    apart: Apart = {numbers: np.abs(each - scores[0]) for numbers, each in zip(KINDS, scores, strict=True)}
    return [
        Quality(
            numbers=numbers,
            samples=int(mask.sum()),
            auc=float(found_KB[place, 0]),
            loss=float(losses_KB[place, 0]),
            low=float(np.quantile(losses_KB[place, 1:], 0.025)),
            high=float(np.quantile(losses_KB[place, 1:], 0.975)),
            largest=float(apart[numbers].max()),
            mean=float(apart[numbers].mean()),
        )
        for place, numbers in enumerate(KINDS)
    ], apart


def size(bundle: Bundle, blobs: Sequence[bytes], numbers: Numbers) -> Size:
    """Write the memories of one day, and then those of the next: what was written first becomes daily copies."""
    shrink = Shrink(numbers, bundle.layout)
    users = [str(10_000_000 + 7919 * number) for number in range(len(blobs))]
    later = encoded_later(bundle, blobs)
    with tempfile.TemporaryDirectory() as folder:
        with closing(RocksStore.create_or_open(Path(folder) / "store", bundle.identity, zone="UTC", shrink=shrink)) as rocks:
            rocksdb = [_written(rocks, users, each, Path(folder) / "store") for each in (blobs, later)]
        with RedisServers(Path(folder) / "redis") as servers:
            opened = RedisStore.create_or_open(servers.url(), bundle.identity, zone="UTC", shrink=shrink)
            redis, copies = (_filled(opened, users, each) for each in (blobs, later))
            opened.close()
        with RedisServers(Path(folder) / "redis-long") as servers:
            opened = RedisStore.create_or_open(servers.url(), bundle.identity, zone="UTC", shrink=shrink)
            long = _filled(opened, [str(uuid.UUID(int=int(user) << 96 | 7)) for user in users], blobs)
            opened.close()
    count = len(users)
    return Size(
        numbers=numbers,
        users=count,
        memory=len(shrink(blobs[:1])[0]),
        rocksdb=rocksdb[0] / count,
        redis=redis / count,
        redis_long=long / count,
        rocksdb_copy=(rocksdb[1] - rocksdb[0]) / count,
        redis_copy=copies / count,
    )


def encoded_later(bundle: Bundle, blobs: Sequence[bytes]) -> list[bytes]:
    """Each user with the memory of another one, taken in a day later."""
    states = [bundle.codec.decode(blob) for blob in blobs]
    return [
        bundle.codec.encode(UserMemory(state_F=state.state_F, fingerprints=state.fingerprints, sequence=2,
                                       last_time_ms=START_MS + DAY_MS, log_time_ms=START_MS + DAY_MS))
        for state in [*states[1:], states[0]]
    ]  # fmt: skip


def _written(store: RocksStore, users: Sequence[str], blobs: Sequence[bytes], path: Path) -> int:
    """The bytes of RocksDB's files of data, when all is in them."""
    store.write_many(list(zip(users, blobs, strict=True)))
    database: Any = store._db  # a RocksDB, for which its library ships no such type
    database.flush()
    database.compact_range(None, None)
    return sum(file.stat().st_size for file in path.glob("*.sst"))


def _filled(store: RedisStore, users: Sequence[str], blobs: Sequence[bytes]) -> int:
    """The bytes that Redis uses more when these are written."""
    before = _used(store)
    for start in range(0, len(users), _PAGE):
        stop = start + _PAGE
        store.write_many(list(zip(users[start:stop], blobs[start:stop], strict=True)))
    return _used(store) - before


def _used(store: RedisStore) -> int:
    return int(store.link.servers()[0][1]["used_memory"])


def models(embedding: int) -> list[dict[str, Any]]:
    """Bytes of a memory of every model and preset, in each kind."""
    names = [("mimn", each) for each in ("default", "official", "paper")]
    names += [(name, each) for name, kind in COMPARED.items() if issubclass(kind, Memory) for each in ("default", "official")]
    rows = []
    for name, preset in names:
        variant = memory_of(model_variant(name, preset, embedding=embedding, slots=8, switches={}))
        layout = MemoryLayout(variant)
        state = UserMemory(state_F=np.zeros(layout.size_F, np.float32), fingerprints=bytes(16 * layout.ring_size))
        blob = Codec(layout).encode(state)
        sizes = {str(each): len(Shrink(each, layout)([blob])[0]) for each in KINDS}
        rows.append({"model": name, "preset": preset, **sizes})
    return rows


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    app()
