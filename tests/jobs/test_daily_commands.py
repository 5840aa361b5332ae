"""`uic checkpoint create|show|pin|unpin|delete|verify|schedule` as a person meets them, without a cluster; and the manifest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command import Uic
from midnight_world import FakeJob, savepoint_of

from jobs.daily.catalogue import SAVEPOINT, Catalogue, digests
from jobs.daily.entry import Entry, example
from jobs.daily.offsets import Split
from jobs.folder import JobFolder
from jobs.settings import Settings

MANIFEST = Path(__file__).parents[2] / "infra" / "kubernetes" / "checkpoint-cronjob.yaml"


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """The catalogue of the job folder `job`, where the command line looks by itself."""
    folder = JobFolder(tmp_path / "job")
    folder.write(FakeJob({0: 0, 1: 0}, tmp_path).record()[0])
    return Catalogue(tmp_path / "job-daily")


def add(catalogue: Catalogue, **changes: object) -> Entry:
    with catalogue.taking() as folder:
        savepoint = folder / SAVEPOINT
        savepoint.mkdir()
        savepoint_of(savepoint, [("inline", [Split("events", 0, 5), Split("events", 1, 7)])])
        return catalogue.add(folder, replace(example(files=digests(savepoint), memories=0), **changes))  # type: ignore[arg-type]


def test_what_there_is_is_listed_shown_pinned_and_deleted(uic: Uic, catalogue: Catalogue) -> None:
    first = add(catalogue, cut={0: 5, 1: 9}, cut_by_clock=(1,))
    add(catalogue, id="later", taken_ms=1_800_000_000_000, tainted="rolled back to 2023-11-15")
    rows = json.loads(uic("checkpoint", "list", "--output", "json").out)
    assert [(row["kind"], row["name"], row["state"]) for row in rows] == [
        ("daily", "later", "tainted"),
        ("daily", first.id, "sealed"),
    ]
    assert "2023-11-15" in uic("checkpoint", "list").out

    shown = uic("checkpoint", "show", "2023-11-15").out
    assert f"id         {first.id}" in shown
    assert "offsets    0: 5, 1: 7 of events" in shown
    assert "cut        0: 5, 1: 9 (partitions 1: no event yet)" in shown
    assert json.loads(uic("checkpoint", "show", "later", "--output", "json").out)["tainted"] == "rolled back to 2023-11-15"

    assert uic("checkpoint", "pin", first.id, "--why", "the sale").out == f"{first.id}: pinned (the sale)\n"
    refused = uic("checkpoint", "delete", first.id)
    assert (refused.code, f"BadInput: {first.id}: pinned (the sale)" in refused.err) == (2, True)
    assert "no pin 'x'; there are 'the sale'" in uic("checkpoint", "unpin", first.id, "--why", "x").err
    assert uic("checkpoint", "unpin", first.id).out == f"{first.id}: not pinned\n"
    assert uic("checkpoint", "delete", first.id).code == 0
    assert not (catalogue.path / first.id).exists()
    last = uic("checkpoint", "delete", "later")
    assert (last.code, "the last daily checkpoint there is" in last.err) == (2, True)


def test_verify_says_each_thing_that_is_wrong_and_ends_with_1(uic: Uic, catalogue: Catalogue) -> None:
    entry = add(catalogue, offsets={0: 5, 1: 6}, bundle="gone")
    ended = uic("checkpoint", "verify", entry.id, "--no-restore", "--output", "json")
    assert ended.code == 1
    offsets, bundle = json.loads(ended.out)["wrong"]
    assert "its offsets are {0: 5, 1: 7}, the entry says {0: 5, 1: 6}" in offsets
    assert "the bundle of this checkpoint is gone" in bundle
    (catalogue.savepoint(entry) / "_metadata").unlink()
    assert "_metadata: missing" in uic("checkpoint", "verify", entry.id).out


def test_a_job_folder_without_a_catalogue_is_told_how_to_get_one(uic: Uic, tmp_path: Path) -> None:
    ended = uic("checkpoint", "show", "2026-11-22")
    assert ended.code == 2
    assert "job-daily: no catalogue of daily checkpoints there; `uic checkpoint create`" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "--day", "yesterday"], "--day: expected a day such as 2026-11-22, got 'yesterday'"),
        (["pin", "2026-11-22"], "no daily checkpoint 2026-11-22; there are none"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    uic: Uic, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setenv("UIC__KAFKA__BOOTSTRAP", "127.0.0.1:9")
    ended = uic("checkpoint", *words)
    assert ended.code == 2
    assert said in ended.err
    assert catalogue.entries() == []


def test_settings_of_another_topic_than_the_job_s_are_refused(
    uic: Uic, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC__KAFKA__EVENTS", "others")
    assert "kafka.events: others, but the job of" in uic("checkpoint", "schedule", "--once").err


def test_the_cronjob_runs_a_command_that_there_is_with_settings_that_there_are(uic: Uic) -> None:
    (pod,) = [yaml.safe_load(MANIFEST.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]]
    (container,) = pod["containers"]
    words = container["command"]
    assert words[:3] == ["uic", "checkpoint", "schedule"]
    options = uic("checkpoint", "schedule", "--help").out
    assert all(word in options for word in words if word.startswith("--"))
    assert words[words.index("--job-dir") + 1].startswith(container["volumeMounts"][0]["mountPath"])
    known = Settings.model_json_schema()["$defs"]
    for variable in container["env"]:
        _, section, key = variable["name"].lower().split("__")
        assert key in known[f"{section.capitalize()}Settings"]["properties"], variable
