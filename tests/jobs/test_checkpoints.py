"""Real checkpoints of a real job: intact as they are, and any flipped bit in a memory found where it is."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Uic

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs import checkpoints, flink_metadata
from jobs.blobs import find
from jobs.checkpoints import Inspection, inspect
from jobs.folder import JobFolder
from operators.condemned import condemn
from operators.progress import READ_FILE

USERS, LINES, SEED = 200, 1_500, 7
START_S = 300
BACKENDS = ("hashmap", "rocksdb")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A job folder of each backend, left by a job that was killed after checkpoints with all events in them."""
    root = tmp_path_factory.mktemp("jobs")
    toy.make_bundle(root / "bundle")
    toy.write_files(root / "events", toy.make_lines(LINES, users=USERS, seed=SEED), files=2)
    started = {backend: _start(root, backend) for backend in BACKENDS}
    try:
        for backend, process in started.items():
            _wait_for_checkpoints(root / backend, process)
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    for backend in BACKENDS:
        _wait_for_the_end(root / backend)
    return {backend: root / backend for backend in BACKENDS}


def _start(root: Path, backend: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.cli", "job", "run", "--watch", "--checkpoint-interval-s", "0.5"]
    command += ["--backend", backend, "--events", str(root / "events"), "--bundle", str(root / "bundle")]
    command += ["--store", str(root / f"{backend}-store"), "--job-dir", str(root / backend)]
    with (root / f"{backend}.out").open("wb") as said:
        return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)


def _wait_for_checkpoints(job_dir: Path, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + START_S
    wanted: int | None = None
    while wanted is None or _newest(job_dir) < wanted:
        assert process.poll() is None, job_dir.with_suffix(".out").read_text()
        assert time.monotonic() < give_up_at, f"{job_dir}: no checkpoint {wanted} within {START_S} s"
        if wanted is None and _lines_read(job_dir) >= LINES:
            # The one under way may not have all of it; after the next but two, all three that are kept do.
            wanted = _newest(job_dir) + 4
        time.sleep(0.02)


def _wait_for_the_end(job_dir: Path) -> None:
    """Wait for the JVM, which may still be removing an old checkpoint; remove what is not complete."""
    pid = json.loads((job_dir / "job.json").read_text())["jvm_pid"]
    give_up_at = time.monotonic() + 30
    while _is_there(pid):
        assert time.monotonic() < give_up_at, f"JVM {pid} of {job_dir} does not end"
        time.sleep(0.02)
    for path in job_dir.glob("checkpoints/run-*/*/chk-*"):
        if not (path / "_metadata").exists():
            shutil.rmtree(path)


def _newest(job_dir: Path) -> int:
    found = job_dir.glob("checkpoints/run-000001/*/chk-*/_metadata")
    return max((int(path.parent.name.removeprefix("chk-")) for path in found), default=0)


def _lines_read(job_dir: Path) -> int:
    try:
        return int(json.loads((job_dir / READ_FILE).read_text())["lines"])
    except (OSError, ValueError):
        return 0


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return True


def newest(job_dir: Path, said: Callable[[str], None] = lambda _: None) -> Path | None:
    return JobFolder(job_dir).newest_intact_checkpoint(said, checkpoints.form_of(job_dir.parent / "bundle"))


def flip(path: Path, bit: int) -> None:
    """Flip one bit; the same again undoes it."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def files_of(checkpoint: Path) -> dict[Path, str]:
    """The files that a checkpoint refers to, with RocksDB's names for them."""
    metadata = (checkpoint / "_metadata").read_bytes()
    return {piece.path: piece.local for piece in flink_metadata.pieces(metadata, checkpoint) if piece.path is not None}


def users_of(job_dir: Path) -> int:
    straight, _ = toy.straight(job_dir.parent / "bundle", job_dir.parent / "events")
    return len(straight.memories)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_real_checkpoint_is_intact_and_all_its_bytes_are_accounted_for(jobs: dict[str, Path], backend: str) -> None:
    for checkpoint in JobFolder(jobs[backend]).candidates():
        found = inspect(checkpoint)
        assert found.is_intact, found.why()
        assert found.bytes == checkpoints.size_of(checkpoint)
        assert not found.unseen


def test_every_user_is_in_a_hashmap_checkpoint_once(jobs: dict[str, Path]) -> None:
    assert inspect(JobFolder(jobs["hashmap"]).candidates()[0]).memories == users_of(jobs["hashmap"])


def test_rocksdb_without_compression_shows_every_user_at_least_once(jobs: dict[str, Path]) -> None:
    assert inspect(JobFolder(jobs["rocksdb"]).candidates()[0]).memories >= users_of(jobs["rocksdb"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flipped_bit_in_a_memory_is_named_by_file_and_byte_and_an_older_checkpoint_is_taken(
    jobs: dict[str, Path], backend: str
) -> None:
    draw = random.Random(SEED)
    form = checkpoints.form_of(jobs[backend].parent / "bundle")
    assert form is not None
    folder = JobFolder(jobs[backend])
    last = newest(jobs[backend])
    assert last is not None
    before_last = next(path for path in folder.candidates() if path != last)
    # RocksDB's checkpoints share files: only one that the older does not have leaves that one intact.
    own = [path for path in [*files_of(last), last / "_metadata"] if path not in files_of(before_last)]
    places = [(path, memory.offset) for path in own for memory in find(path.read_bytes(), form)]
    if not places:
        places = [(path, memory.offset) for path in files_of(last) for memory in find(path.read_bytes(), form)]
    path, offset = draw.choice(places)
    bit = 8 * offset + draw.randrange(8 * form.size)
    flip(path, bit)
    try:
        found = inspect(last, form)
        assert [(bad.file, bad.offset) for bad in found.bad] == [(path, offset)]
        said: list[str] = []
        taken = newest(jobs[backend], said.append)
        assert taken != last
        assert f"{last}: this checkpoint is damaged: {path} at byte {offset}: " in said[0]
        if path in own:
            assert taken == before_last
    finally:
        flip(path, bit)
    assert newest(jobs[backend]) == last


def test_any_wrong_bit_in_rocksdbs_own_files_is_seen(jobs: dict[str, Path]) -> None:
    draw = random.Random(SEED)
    checkpoint = JobFolder(jobs["rocksdb"]).candidates()[0]
    files = {path: name for path, name in files_of(checkpoint).items() if name.endswith(".sst") or name.startswith("MANIFEST")}
    assert files
    for path in files:
        for _ in range(20):
            bit = draw.randrange(8 * path.stat().st_size)
            flip(path, bit)
            assert not inspect(checkpoint).is_intact, f"{path}: bit {bit} was not noticed"
            flip(path, bit)
    assert inspect(checkpoint).is_intact


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_is_missing_or_cut_off_is_named(jobs: dict[str, Path], backend: str, tmp_path: Path) -> None:
    checkpoint = JobFolder(jobs[backend]).candidates()[0]
    path = max(files_of(checkpoint), key=lambda path: path.stat().st_size)
    aside = path.rename(tmp_path / "aside")
    try:
        assert inspect(checkpoint).missing == [f"{path}: No such file or directory"]
        size = aside.stat().st_size
        path.write_bytes(aside.read_bytes()[:-5])
        assert inspect(checkpoint).missing == [f"{path}: {size - 5} bytes are there of {size}"]
    finally:
        shutil.move(aside, path)
    assert inspect(checkpoint).is_intact


def test_a_condemned_checkpoint_is_passed_over_by_name_or_by_path(jobs: dict[str, Path], tmp_path: Path) -> None:
    job_dir = jobs["hashmap"]
    first, second, third = JobFolder(job_dir).candidates()[:3]
    said: list[str] = []
    try:
        condemn(job_dir, first.name, "CRC of user u1")
        assert newest(job_dir, said.append) == second
        assert said == [f"{first}: the job has condemned it: CRC of user u1; going on from the one before it"]
        condemn(job_dir, second.as_uri().replace("file:///", "file:/"), "CRC of user u2")
        assert newest(job_dir) == third
        # A later one of the same name is another one.
        os.utime(first / "_metadata", ns=(time.time_ns() + 10**12,) * 2)
        assert newest(job_dir) == first
    finally:
        (job_dir / "condemned.jsonl").unlink()


def test_an_unknown_bundle_still_lets_every_memory_be_checked(jobs: dict[str, Path]) -> None:
    checkpoint = JobFolder(jobs["hashmap"]).candidates()[0]
    assert inspect(checkpoint, None) == inspect(checkpoint, checkpoints.form_of(jobs["hashmap"].parent / "bundle"))


def test_memories_of_another_bundle_are_named_by_their_layout(jobs: dict[str, Path], tmp_path: Path) -> None:
    other = toy.make_bundle(tmp_path / "other", slots=5)
    found: Inspection = inspect(JobFolder(jobs["hashmap"]).candidates()[0], checkpoints.form_of(other))
    assert len(found.bad) == users_of(jobs["hashmap"])
    assert re.search(r"its layout is [0-9a-f]{16}, expected [0-9a-f]{16}", found.why())


def test_the_list_shows_each_checkpoint_with_its_memories(jobs: dict[str, Path], uic: Uic) -> None:
    ended = uic("checkpoint", "list", "--job-dir", jobs["hashmap"], "--output", "json")
    assert ended.code == 0
    rows: list[dict[str, Any]] = json.loads(ended.out)
    assert [row["path"] for row in rows] == [str(path) for path in JobFolder(jobs["hashmap"]).candidates()]
    assert {(row["memories"], row["state"]) for row in rows} == {(users_of(jobs["hashmap"]), "intact")}
    shown = uic("checkpoint", "list", "--job-dir", jobs["hashmap"], "--fast").out
    assert all(row["name"] in shown for row in rows)


def test_a_damaged_checkpoint_is_exit_code_1_with_file_and_byte(jobs: dict[str, Path], uic: Uic) -> None:
    checkpoint = JobFolder(jobs["hashmap"]).candidates()[0]
    path, memory = next((path, memory) for path in files_of(checkpoint) for memory in find(path.read_bytes(), None))
    assert uic("checkpoint", "inspect", "--job-dir", jobs["hashmap"]).code == 0
    flip(path, 8 * memory.offset + 900)
    try:
        ended = uic("checkpoint", "inspect", checkpoint.name, "--job-dir", jobs["hashmap"])
        assert ended.code == 1
        assert f"wrong: {path} at byte {memory.offset}: CRC-32C" in ended.out
        assert "CRC-32C" in uic("checkpoint", "list", "--job-dir", jobs["hashmap"]).out
        (said,) = json.loads(uic("checkpoint", "inspect", checkpoint, "--output", "json").out)["bad"]
        assert (said["file"], said["offset"]) == (str(path), memory.offset)
    finally:
        flip(path, 8 * memory.offset + 900)


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(jobs: dict[str, Path], uic: Uic) -> None:
    there = JobFolder(jobs["hashmap"]).candidates()[0].name
    ended = uic("checkpoint", "inspect", "chk-9999", "--job-dir", jobs["hashmap"])
    assert ended.code == 2
    assert f"no checkpoint chk-9999; the newest are {there}" in ended.err


def test_looking_makes_no_job_folder(uic: Uic, tmp_path: Path) -> None:
    ended = uic("checkpoint", "list", "--job-dir", "nowhere")
    assert (ended.code, (tmp_path / "nowhere").exists()) == (2, False)
    assert "nowhere: expected a streaming-job directory" in ended.err
