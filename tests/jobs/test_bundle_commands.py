"""`uic bundle`: bundles into the registry and out of it, what is said of each, and what is refused before anybody is asked."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Uic

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

from toy import make_bundle

from jobs.bundles.promote import running
from jobs.folder import JobFolder
from jobs.record import ClusterRecord, JobRecord
from operators import bundle_status
from operators.bundle_status import BundleStatus
from uic.bundle import MANIFEST, Bundle, Manifest
from uic.errors import BadInput, JobError
from uic.registry import Registry, digest_of


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("UIC__REGISTRY__URL", str(tmp_path / "registry"))
    return Registry(str(tmp_path / "registry"))


def bundle(tmp_path: Path, version: int, training: dict[str, Any] | None = None, **changes: Any) -> Path:
    path = make_bundle(tmp_path / f"bundle-{version}", version=version, **changes)
    manifest = dataclasses.replace(Manifest.read(path / MANIFEST), training=training or {})
    (path / MANIFEST).write_text(manifest.to_json())
    return path


def job(root: Path, active: Path, *, plan: str = "batched", parallelism: int = 2, said: int = 2, **status: Any) -> Path:
    """A job's folder as a submitted job leaves it, with what `said` of its subtasks have written."""
    folder = JobFolder(root / "job")
    opened = Bundle.open(active)
    on = ClusterRecord(
        url="http://127.0.0.1:1",
        job_id="f" * 32,
        name="uic",
        plan=plan,
        parallelism=parallelism,
        bootstrap="127.0.0.1:1",
        topic="events",
        partitions=3,
        wheel="w",
    )
    folder.write(
        JobRecord(
            run=3,
            layout=opened.identity.layout,
            lineage=opened.identity.lineage,
            bundle_version=opened.manifest.version,
            bundle=str(active),
            events="events",
            store="snapshots",
            backend="hashmap",
            cluster=on,
        )
    )
    for subtask in range(said):
        fields = {"version": opened.manifest.version, "digest": digest_of(active), "training_cut_off_ms": 0, **status}
        bundle_status.write(folder.path, BundleStatus(address="a", run=3, subtask=subtask, **fields))
    return folder.path


def rows(uic: Uic, *words: object) -> list[dict[str, Any]]:
    listed = uic("bundle", "list", "--output", "json", *words)
    assert listed.code == 0, listed.err
    found: list[dict[str, Any]] = json.loads(listed.out)
    return found


def test_a_bundle_goes_into_the_registry_and_comes_out_as_it_was(uic: Uic, registry: Registry, tmp_path: Path) -> None:
    path = bundle(tmp_path, 5)
    assert "no bundle yet; `uic bundle push` puts one there" in uic("bundle", "list").out
    pushed = uic("bundle", "push", path)
    assert (pushed.code, f"bundle 5 is in {registry.url}" in pushed.out) == (0, True)
    pulled = uic("bundle", "pull", 5, "--out", tmp_path / "out")
    assert Bundle.open(Path(pulled.out.strip())).manifest == Bundle.open(path).manifest


def test_the_list_says_what_each_bundle_is_and_who_applies_it(uic: Uic, registry: Registry, tmp_path: Path) -> None:
    paths = [bundle(tmp_path, 5, {"best": {"valid": {"auc": 0.81, "user_auc": 0.7}}}), bundle(tmp_path, 6, parent=5)]
    for path in paths:
        registry.push(path, now_ms=1)
    registry.note_promoted(5, 2)
    registry.note_refused(6, "its items do not begin with those of the active bundle", 3)
    first, second = rows(uic, "--job-dir", job(tmp_path, paths[0]))
    assert (first["state"], first["subtasks"], first["metrics"]) == ("promoted", [0, 1], {"auc": 0.81, "user_auc": 0.7})
    assert (first["parent"], first["trained_until"], first["lineage"]) == (None, "1970-01-01 05:00", "toy")
    assert (second["state"], second["subtasks"], second["parent"]) == ("refused", [], 5)
    text = uic("bundle", "list", "--job-dir", tmp_path / "job").out
    assert "promoted, active" in text
    assert "auc 0.8100, user_auc 0.7000" in text
    assert "refused: its items do not begin with" in text


def test_a_bundle_whose_manifest_was_altered_is_listed_as_damaged(uic: Uic, registry: Registry, tmp_path: Path) -> None:
    entry = registry.push(bundle(tmp_path, 5), now_ms=1)
    (tmp_path / "registry" / entry.folder / MANIFEST).write_text("{}")
    (row,) = rows(uic)
    assert row["state"] == "damaged"
    assert "manifest.json: altered" in row["note"]


@pytest.mark.parametrize(("hours", "judged"), [(2, "at most 24: fine"), (30, "more than registry.max_skew_h = 24")])
def test_show_says_how_far_a_bundle_is_from_the_one_that_is_applied(
    uic: Uic, registry: Registry, tmp_path: Path, hours: int, judged: str
) -> None:
    path = bundle(tmp_path, 5)  # its training ends five hours after 1970 began
    registry.push(path, now_ms=1)
    folder = job(tmp_path, path, parallelism=1, said=1, training_cut_off_ms=(5 + hours) * 3_600_000)
    shown = uic("bundle", "show", 5, "--job-dir", folder).out
    assert f"+{hours}.0 h from this bundle to the one it applies ({judged})" in shown
    assert "subtask 0      applies 5" in shown


def test_the_active_bundle_cannot_be_retired_and_a_retired_one_cannot_be_promoted(
    uic: Uic, registry: Registry, tmp_path: Path
) -> None:
    paths = [bundle(tmp_path, version) for version in (5, 6)]
    for path in paths:
        registry.push(path, now_ms=1)
    folder = job(tmp_path, paths[0])
    refused = uic("bundle", "retire", 5, "--job-dir", folder)
    assert (refused.code, "applies it; promote another one first" in refused.err) == (2, True)
    registry.note_promoted(6, 9)
    refused = uic("bundle", "retire", 6, "--job-dir", folder)
    assert (refused.code, "the last one of its lineage to be promoted" in refused.err) == (2, True)
    assert uic("bundle", "retire", 5, "--job-dir", tmp_path / "no-job").out == "bundle 5 is retired\n"
    refused = uic("bundle", "promote", 5, "--job-dir", folder)
    assert (refused.code, "bundle 5: it was retired" in refused.err) == (2, True)


def test_a_version_that_nobody_pushed_is_refused_with_those_there_are(uic: Uic, registry: Registry, tmp_path: Path) -> None:
    registry.push(bundle(tmp_path, 5), now_ms=1)
    refused = uic("bundle", "promote", 7)
    assert (refused.code, "no bundle 7 there; there are 5" in refused.err) == (2, True)


def test_a_job_that_takes_no_control_messages_is_refused_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle(tmp_path, 5)
    with pytest.raises(BadInput, match="no job was started in this folder yet"):
        running(JobFolder(tmp_path / "nothing").path)
    monkeypatch.setattr("jobs.cluster.rest.Cluster.is_alive", lambda *_: False)
    with pytest.raises(JobError, match=r"its job does not run on .*; `uic job resume` starts it"):
        running(job(tmp_path / "ended", path))
    monkeypatch.setattr("jobs.cluster.rest.Cluster.is_alive", lambda *_: True)
    with pytest.raises(JobError, match="1 of 2 subtasks have said which bundle they apply"):
        running(job(tmp_path / "opening", path, said=1))
    found = running(job(tmp_path / "open", path))
    assert (found.address, found.active) == ("a", 5)
