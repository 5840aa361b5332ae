"""`uic job run`, killed with kill -9 at any moment, and what must be true when it has been run again to its end.

A real embedded Flink in processes of its own, a real store, the command line's own entry. The straight fold of the same files,
without a stream, says what is right.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy

from operators.progress import READ_FILE, ReadProgress, read
from uic.bundle import Bundle
from uic.letters import LetterBox
from uic.store.rocksdb import RocksStore
from uic.update import Outcome

SEED = 20
START_S = 120


class Job:
    """One job folder and the runs over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dir = root / "job"
        self.events = root / "events"
        self.store = root / "store"
        self.bundle = toy.make_bundle(root / "bundle")
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jobs.cli", "job", "run", "--checkpoint-interval-s", "0.5", *options]
        for name in ("events", "bundle", "store"):
            command += [f"--{name}", str(getattr(self, name))]
        self.process = subprocess.Popen(
            [*command, "--job-dir", str(self.dir)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self.process

    def run(self, *options: str) -> str:
        """Run to the end; returns what was printed."""
        process = self.start(*options)
        said, _ = process.communicate(timeout=START_S)
        assert process.returncode == 0, said
        return said

    def jvm_pid(self) -> int:
        return int(json.loads((self.dir / "job.json").read_text())["jvm_pid"])

    def wait_for(self, run: int, lines: int) -> ReadProgress:
        """Wait until this run has read that many lines."""
        assert self.process is not None
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at:
            progress = read(self.dir / READ_FILE, ReadProgress, run)
            if progress is not None and progress.lines >= lines:
                return progress
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)
        raise AssertionError(f"run {run} did not come to line {lines} within {START_S} s")

    def wait_for_checkpoint(self, run: int) -> None:
        """Wait for a checkpoint of this run that was begun from now on: on a busy machine the first may be long in coming."""
        assert self.process is not None

        def newest() -> int:
            done = self.dir.glob(f"checkpoints/run-{run:06d}/*/chk-*/_metadata")
            return max((int(path.parent.name.removeprefix("chk-")) for path in done), default=0)

        # The next one may have been under way already; the one after it was not.
        wanted, give_up_at = newest() + 2, time.monotonic() + START_S
        while newest() < wanted:
            assert time.monotonic() < give_up_at, f"run {run} made no checkpoint {wanted} within {START_S} s"
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)

    def check(self) -> None:
        """Every memory is the straight fold's, byte for byte; every line that was not applied has exactly one letter."""
        straight, dead = toy.straight(self.bundle, self.events)
        codec = Bundle.open(self.bundle).codec
        store = RocksStore.open_to_read(self.store)
        stored = {user: store.read(user) for user in store.users()}
        store.close()
        assert stored == {user: codec.encode(memory) for user, memory in straight.memories.items()}
        applied = sum(memory.sequence for memory in straight.memories.values())
        assert applied == straight.outcomes[Outcome.APPLIED]

        box = LetterBox(self.dir / "letters.sqlite", writable=False)
        kinds: Counter[str] = Counter()
        for (kind, _), count in box.counts().items():
            kinds[kind] += count
        lines = {(path.name, letter.offset): letter for letter in box.letters() for path in [self.events / letter.source]}
        for (name, offset), letter in lines.items():
            content = (self.events / name).read_bytes()
            assert content[offset:].split(b"\n", 1)[0] == letter.payload
        box.close()
        assert kinds == {
            "dead": dead,
            "late": straight.outcomes[Outcome.LATE],
            "duplicate": straight.outcomes[Outcome.DUPLICATE],
        }


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    if job.process is not None and job.process.poll() is None:
        job.process.kill()  # its JVM dies with it
        job.process.wait()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def await_end(pid: int) -> None:
    """Wait until a killed process is gone, or left for its parent to collect."""
    give_up_at = time.monotonic() + 30
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < give_up_at, f"process {pid} did not end"
        time.sleep(0.02)


@pytest.mark.timeout(400)
def test_killed_at_random_times_and_run_again_it_ends_as_if_nothing_had_happened(job: Job) -> None:
    draw = random.Random(SEED)
    lines = 160_000  # more than a quick machine reads before the last kill
    toy.write_files(job.events, toy.make_lines(lines, users=300, seed=SEED), files=7)
    for run, victim in enumerate(["client", "JVM", "both"], 1):
        process = job.start()
        progress = job.wait_for(run, lines=1_000 * run)
        # Reading all over again would end alike, and prove nothing about the checkpoint.
        assert (progress.events_before > 0) == (run > 1)
        job.wait_for_checkpoint(run)
        time.sleep(draw.uniform(0, 1))
        jvm_pid = job.jvm_pid()
        if victim != "JVM":
            kill(process.pid)
        if victim != "client":
            kill(jvm_pid)
        said, _ = process.communicate(timeout=60)
        if victim == "JVM":
            assert process.returncode == 2
            assert "the JVM ended with code -9; run again to go on" in said
    said = job.run()
    assert "going on from checkpoints/run-" in said
    job.check()

    # More files come; the state moves to the other backend through the savepoint that the last run has left.
    toy.write_files(job.events, toy.make_lines(8_000, users=400, seed=SEED + 1), files=3, first=7)
    # Watching, it does not end before it has made a checkpoint, however fast or slow the machine.
    process = job.start("--backend", "rocksdb", "--plan", "per-event", "--watch")
    job.wait_for(5, lines=lines + 2_000)
    job.wait_for_checkpoint(5)
    jvm_pid = job.jvm_pid()
    # Both, and gone before the files are looked at: a JVM that outlived its client by a moment could complete one more.
    kill(process.pid)
    kill(jvm_pid)
    process.communicate(timeout=60)
    await_end(jvm_pid)
    # A checkpoint that was not completed is passed over.
    newest = max(job.dir.glob("checkpoints/run-000005/*/chk-*/_metadata"), key=lambda path: int(path.parent.name[4:]))
    newest.unlink()
    said = job.run("--backend", "rocksdb")
    assert "this checkpoint was not completed" in said
    job.check()


@pytest.mark.timeout(200)
def test_watching_applies_what_arrives_and_stops_with_a_signal(job: Job) -> None:
    toy.write_files(job.events, toy.make_lines(1_000, users=50, seed=1), files=2)
    keep = job.root / "keep.jsonl"
    straight, _ = toy.straight(job.bundle, job.events)
    user, memory = max(straight.memories.items(), key=lambda entry: entry[1].sequence)
    keep.write_text(json.dumps({"user_id": user, "sequence": memory.sequence}) + "\n")
    process = job.start("--watch", "--keep-at", str(keep))
    job.wait_for(1, lines=1_000)

    toy.write_files(job.events, toy.make_lines(1_000, users=50, seed=2), files=1, first=2)
    # Appended: a file that is written anew is empty for a moment, and an event file may only grow.
    with (job.events / "part-002.jsonl").open("ab", buffering=0) as last:
        last.write(b'{"user_id": "hal')
        job.wait_for(1, lines=2_000)
        last.write(b'f", "item_id": 1, "category_id": 1, "behaviour": "buy", "time_ms": 1}\n')
    job.wait_for(1, lines=2_001)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "lines read           2,001" in said
    job.check()
    store = RocksStore.open_to_read(job.store)
    assert store.read_kept(user, memory.sequence) == Bundle.open(job.bundle).codec.encode(memory)
    store.close()

    # A file that should have come earlier is not read behind the user's back, nor passed over in silence.
    (job.events / "part-000a.jsonl").write_bytes(b'{"user_id": "u1"}\n')
    said = job.run()
    assert "reading has passed it (now in part-002.jsonl)" in said.replace("\n", " ")
    # A bundle of another layout cannot go on with this state, whichever store it would publish to.
    job.bundle = toy.make_bundle(job.root / "other", slots=5)
    job.store = job.root / "other-store"
    process = job.start()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "its state was made by a bundle of layout" in said
