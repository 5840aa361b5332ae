"""`uic warm-up`: recorded files become the memories that streaming them makes, also when it is killed again and again."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Uic

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs.warm_up import divide as divide_module
from jobs.warm_up import inputs, run
from jobs.warm_up import read as read_module
from jobs.warm_up.divide import divide
from jobs.warm_up.part import fold_partition
from jobs.warm_up.run import WarmUp
from jobs.warm_up.work import WorkFolder
from uic.bundle import Bundle
from uic.errors import InvalidEvent
from uic.event import BehaviourEvent, parse_event
from uic.fold import Folded, fold
from uic.forgetting import FILE, Entry, Forgotten
from uic.letters import LetterBox
from uic.memory import UserMemory
from uic.runtime import OnnxStep
from uic.store.sharded import open_to_read
from uic.update import Outcome, Rules
from uic.warm.packed import read

UNTIL, UNTIL_MS = "2023-11-15T06:13:20+08:00", toy.START_MS
DAYS = 20
WAIT_S = 240.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_bundle(tmp_path_factory.mktemp("warm") / "toy")


def history(folder: Path, count: int, *, files: int) -> list[bytes]:
    """A log until the hand-over, of which the first days are before the window and the last minutes after it."""
    lines = toy.make_lines(count, users=40, seed=3)
    end_ms = max(json.loads(line)["time_ms"] for line in lines if b'"behaviour": "click"' in line)
    shift_ms = UNTIL_MS + 120_000 - end_ms
    moved = [shifted(line, shift_ms) for line in lines]
    toy.write_files(folder, moved, files=files)
    return moved


def shifted(line: bytes, by_ms: int) -> bytes:
    try:
        fields = json.loads(line)
        return json.dumps({**fields, "time_ms": fields["time_ms"] + by_ms}).encode()
    except (ValueError, KeyError, TypeError):
        return line


def streamed(bundle: Path, lines: list[bytes], *, idle_after_ms: int | None = None) -> tuple[Folded, int]:
    """The events of the window in the order of time, folded one after the other; and how many lines are no events."""
    model = Bundle.open(bundle)
    events: list[BehaviourEvent] = []
    dead = 0
    for line in lines:
        try:
            events.append(parse_event(line, now_ms=1 << 63, accepted=model.accepted))
        except InvalidEvent:
            dead += 1
    wanted = [each for each in events if UNTIL_MS - DAYS * run.DAY_MS <= each.time_ms < UNTIL_MS]
    updater = model.updater(OnnxStep(model), Rules(idle_after_ms=idle_after_ms))
    return fold(updater, sorted(wanted, key=lambda event: event.time_ms)), dead


def warmed(bundle: Path, work: Path) -> dict[str, UserMemory]:
    """Every memory in the files of a warm-up."""
    codec = Bundle.open(bundle).codec
    memories = {}
    for path in sorted((work / "memories").glob("*.memories")):
        for block in read(path, codec):
            for number, user in enumerate(block.users):
                assert user.decode() not in memories
                memories[user.decode()] = codec.decode(bytes(block.packed[number * codec.size : (number + 1) * codec.size]))
    return memories


def check(found: dict[str, UserMemory], expected: Folded) -> None:
    assert found.keys() == expected.memories.keys()
    for user, memory in expected.memories.items():
        # The toy's step is exact in float32, whatever batch it is taken in.
        assert found[user].state_F.tobytes() == memory.state_F.tobytes(), user
        for name in ("fingerprints", "sequence", "last_time_ms", "log_time_ms", "bundle_version"):
            assert getattr(found[user], name) == getattr(memory, name), (user, name)


@pytest.mark.parametrize(("task_bytes", "partitions", "idle_after_s"), [(1 << 30, 1, None), (3000, 7, 400), (50_000, 3, 60)])
def test_however_it_is_cut_a_warm_up_makes_the_memories_of_the_stream(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, task_bytes: int, partitions: int, idle_after_s: int | None
) -> None:
    lines = history(tmp_path / "history", 4000, files=3)
    monkeypatch.setattr(inputs, "TASK_BYTES", task_bytes)
    monkeypatch.setattr(read_module, "_BLOCK_BYTES", 20_000)
    monkeypatch.setattr(divide_module, "CHUNK_ROWS", 500)
    idle_after_ms = None if idle_after_s is None else 1000 * idle_after_s
    found = inputs.find(str(tmp_path / "history"))
    tasks = inputs.cut(found)
    model = Bundle.open(bundle)
    asked = WarmUp(
        history="", bundle=bundle, work=tmp_path / "work", until_ms=UNTIL_MS, days=DAYS, idle_after_ms=idle_after_ms,
        partitions=partitions,
    )  # fmt: skip
    folder = WorkFolder(asked.work)
    with folder.locked():
        plan = folder.agree(run.plan_of(asked, found, tasks, processes=1))
        for task in tasks:
            divide(folder, plan, task, model.accepted)
        updater = model.updater(OnnxStep(model), Rules(idle_after_ms=idle_after_ms))
        for partition in range(partitions):
            fold_partition(folder, plan, tasks, partition, updater, sorted(model.accepted))
    check(warmed(bundle, asked.work), streamed(bundle, lines, idle_after_ms=idle_after_ms)[0])


def test_a_dataset_is_warmed_up_into_the_store_and_what_is_left_is_kept(uic: Uic, tmp_path: Path, bundle: Path) -> None:
    lines = history(tmp_path / "lines", 2000, files=1)
    good = [json.loads(line) for line in lines if line.startswith(b'{"user_id": "u') and len(line) > 40]
    table = pa.table({"user" if name == "user_id" else name: [row[name] for row in good] for name in good[0]})
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=100)
    asked = ("--history", tmp_path / "*.parquet", "--until", UNTIL, "--days", DAYS, "--bundle", bundle, "--processes", 1)
    done = uic("warm-up", *asked, "--store", "store")
    assert done.code == 0, done.err
    expected, dead = streamed(bundle, [json.dumps(row).encode() for row in good])
    check(warmed(bundle, Path("warm-up")), expected)
    store = open_to_read(Path("store"))
    codec = Bundle.open(bundle).codec
    check({user: codec.decode(store.read(user) or b"") for user in store.users()}, expected)
    store.close()
    counts = LetterBox(Path("warm-up/letters.sqlite"), writable=False).counts()
    assert counts == {
        ("dead", "behaviour_not_accepted"): dead,
        ("duplicate", "duplicate"): expected.outcomes[Outcome.DUPLICATE],
    }
    again = uic("warm-up", *asked)
    assert again.code == 0
    assert f"users                {len(expected.memories)}," in again.out
    other = uic("warm-up", *asked[:5], 19, *asked[6:])
    assert other.code == 2
    assert "from_ms" in other.err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command in a process of its own; it is gone when the test is over."""
    started = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.cli", "warm-up", *map(str, arguments)]
        with (tmp_path / "said").open("ab") as said:
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=said, stderr=said))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_whoever_is_to_be_forgotten_is_in_neither_memories_nor_store_nor_letters(
    uic: Uic, tmp_path: Path, bundle: Path
) -> None:
    lines = history(tmp_path / "lines", 1500, files=1)
    good = [json.loads(line) for line in lines if line.startswith(b'{"user_id": "u') and len(line) > 40]
    cut_ms = sorted(row["time_ms"] for row in good)[len(good) // 2]
    toy.write_files(tmp_path / "good", [json.dumps(row).encode() for row in good], files=2)
    forgotten = Forgotten(Path("job") / FILE)
    forgotten.note("u1", Entry(None, "drop", 0))
    forgotten.note("u2", Entry(cut_ms, "anew", 0))
    counted = [row for row in good if row["user_id"] != "u1" and (row["user_id"] != "u2" or row["time_ms"] > cut_ms)]
    asked = ("--history", tmp_path / "good", "--until", UNTIL, "--days", DAYS, "--bundle", bundle, "--processes", 1)
    assert uic("warm-up", *asked, "--store", "store").code == 0
    expected, _ = streamed(bundle, [json.dumps(row).encode() for row in counted])
    check(warmed(bundle, Path("warm-up")), expected)
    # Noted while the warm-up was under way: what is in its files does not come into the store.
    forgotten.note("u3", Entry(UNTIL_MS, "anew", 0))
    assert uic("warm-up", *asked, "--store", "later").code == 0
    for place, gone in (("store", {"u1"}), ("later", {"u1", "u3"})):
        store = open_to_read(Path(place))
        assert set(store.users()) == {row["user_id"] for row in counted if row["time_ms"] < UNTIL_MS} - gone
        store.close()
    assert not re.search(rb"u1\D", Path("warm-up/letters.sqlite").read_bytes())


def test_killed_in_every_phase_it_goes_on_where_it_was(
    tmp_path: Path, bundle: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    lines = history(tmp_path / "history", 6000, files=12)
    work, store = tmp_path / "work", tmp_path / "store"
    asked = ["--history", tmp_path / "history", "--until", UNTIL, "--days", DAYS, "--bundle", bundle, "--work", work]
    asked += ["--store", store, "--processes", 1, "--partitions", 12]
    kept: dict[Path, int] = {}
    for pattern in ("work/spill/task-000005.json", "work/memories/part-*.json", "store/CURRENT"):
        process = start(*asked)
        wait(lambda pattern=pattern: any(tmp_path.glob(pattern)), process)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []
        for path, changed in kept.items():
            assert path.stat().st_mtime_ns == changed, f"{path} was done again"
        kept = {path: path.stat().st_mtime_ns for path in work.glob("*/*.json")}
    process = start(*asked)
    assert process.wait(WAIT_S) == 0, (tmp_path / "said").read_text()
    expected, dead = streamed(bundle, lines)
    check(warmed(bundle, work), expected)
    opened, codec = open_to_read(store), Bundle.open(bundle).codec
    check({user: codec.decode(opened.read(user) or b"") for user in opened.users()}, expected)
    opened.close()
    counts = json.loads((work / "report.json").read_text())["counts"]
    assert counts["duplicate"] == expected.outcomes[Outcome.DUPLICATE]
    assert sum(count for name, count in counts.items() if name.startswith("dead ")) == dead
    assert list(work.glob("spill/*.spill")) == []


def test_several_processes_share_the_work_in_one_folder(
    tmp_path: Path, bundle: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    lines = history(tmp_path / "history", 3000, files=8)
    asked = [
        "--history",
        tmp_path / "history",
        "--until",
        UNTIL,
        "--days",
        DAYS,
        "--bundle",
        bundle,
        "--work",
        tmp_path / "work",
    ]
    both = [start(*asked, "--processes", 1, "--share", share) for share in ("1/2", "0/2")]
    assert [process.wait(WAIT_S) for process in both] == [0, 0], (tmp_path / "said").read_text()
    expected, _ = streamed(bundle, lines)
    check(warmed(bundle, tmp_path / "work"), expected)
    assert json.loads((tmp_path / "work/report.json").read_text())["counts"]["users"] == len(expected.memories)


def test_a_worker_that_is_killed_is_named_and_other_inputs_are_refused(
    tmp_path: Path, bundle: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    history(tmp_path / "history", 3000, files=30)
    asked = [
        "--history",
        tmp_path / "history",
        "--until",
        UNTIL,
        "--bundle",
        bundle,
        "--work",
        tmp_path / "work",
        "--processes",
        1,
    ]
    process = start(*asked)
    wait(lambda: (tmp_path / "work/spill/task-000001.json").exists(), process)
    for each in psutil.Process(process.pid).children(recursive=True):
        each.kill()
    assert process.wait(WAIT_S) == 2
    assert "a process of the warm-up was killed" in (tmp_path / "said").read_text()
    with (tmp_path / "history/part-007.jsonl").open("ab") as file:
        file.write(b"{}\n")
    process = start(*asked)
    assert process.wait(WAIT_S) == 2
    said = (tmp_path / "said").read_text()
    assert "inputs" in said
    assert "part-007.jsonl" in said
    assert list((tmp_path / "work/memories").iterdir()) == []


def wait(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < give_up_at
        time.sleep(0.001)
