"""The job folder: whose it is, who works in it, and where a run goes on (jobs/folder.py)."""

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.folder import ClusterRecord, JobFolder, JobRecord
from uic.errors import ForeignDirectory, JobError

RECORD = JobRecord(
    run=3,
    layout="l",
    lineage="i",
    bundle_version=1,
    bundle="b",
    events="e",
    store="s",
    backend="hashmap",
    launcher_pid=12,
    jvm_pid=34,
)
CLUSTER = ClusterRecord(
    url="http://localhost:8081",
    job_id="ab" * 16,
    name="uic",
    plan="batched",
    parallelism=2,
    bootstrap="localhost:9092",
    topic="events",
    partitions=4,
    wheel="w.whl",
)
COMPLETE = bytes.fromhex("4960672d") + b"more"


def add(folder: JobFolder, name: str, metadata: bytes | None = COMPLETE) -> Path:
    """A checkpoint or savepoint directory, complete unless `metadata` says otherwise."""
    path = folder.path / "checkpoints" / name
    path.mkdir(parents=True)
    if metadata is not None:
        (path / "_metadata").write_bytes(metadata)
    return path


def newest(folder: JobFolder) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    return folder.newest_checkpoint(said.append), said


def test_a_new_folder_has_no_record_and_no_checkpoint(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    assert folder.record() is None
    assert newest(folder) == (None, [])


@pytest.mark.parametrize("cluster", [None, CLUSTER])
def test_a_record_comes_back_as_it_was_written(tmp_path: Path, cluster: ClusterRecord | None) -> None:
    folder = JobFolder(tmp_path / "job")
    record = dataclasses.replace(RECORD, cluster=cluster)
    folder.write(record)
    assert JobFolder(tmp_path / "job").record() == record


def test_a_record_made_before_there_were_clusters_is_read_and_still_written_so(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.write(RECORD)
    content = json.loads((folder.path / "job.json").read_text())
    assert "cluster" not in content
    assert folder.record() == RECORD


@pytest.mark.parametrize("content", ['{"format": 1, "run": 1}', '{"format": 1, "cluster": {"url": 1}}', '{"format": 2}', "[]"])
def test_a_record_that_is_not_of_this_release_is_refused_by_name(tmp_path: Path, content: str) -> None:
    folder = JobFolder(tmp_path / "job")
    (folder.path / "job.json").write_text(content)
    with pytest.raises(JobError, match=r"job\.json: "):
        folder.record()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ForeignDirectory, match="left as it is"):
        JobFolder(tmp_path)


def test_the_newest_checkpoint_is_the_last_of_the_last_run_by_number(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    newer = add(folder, "run-000010/job/chk-10")
    for name in ("run-000010/job/chk-9", "run-000009/job/chk-99", "run-000009/savepoint-a-1"):
        add(folder, name)
    assert newest(folder) == (newer, [])


def test_a_savepoint_is_the_last_of_its_run(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    add(folder, "run-000001/job/chk-5")
    savepoint = add(folder, "run-000001/savepoint-abc-def")
    assert newest(folder) == (savepoint, [])


@pytest.mark.parametrize(("metadata", "words"), [(None, "not completed"), (b"", "damaged"), (b"zzzz", "damaged")])
def test_an_unusable_checkpoint_is_passed_over_aloud(tmp_path: Path, metadata: bytes | None, words: str) -> None:
    folder = JobFolder(tmp_path)
    older = add(folder, "run-000001/job/chk-4")
    broken = add(folder, "run-000001/job/chk-5", metadata)
    found, said = newest(folder)
    assert found == older
    assert len(said) == 1
    assert str(broken) in said[0]
    assert words in said[0]


def test_old_runs_go_but_the_last_three_with_a_checkpoint_stay(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    for run in range(1, 6):
        add(folder, f"run-{run:06d}/job/chk-1")
    add(folder, "run-000006/job/chk-2", None)
    folder.remove_old_runs()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"run-{run:06d}" for run in (3, 4, 5, 6)]


def test_two_jobs_never_work_in_one_folder(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.write(RECORD)
    said: list[str] = []
    with folder.locked(0, said.append):  # noqa: SIM117  # the second lock is what must fail
        with pytest.raises(JobError, match=r"process 12 \(JVM 34\)"), JobFolder(tmp_path).locked(0, said.append):
            pass
    with JobFolder(tmp_path).locked(0, said.append):
        pass
