"""What a migration keeps of itself: how far it is, the settings of the second job, and the way back before the switch."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.bundles.migrate import Migration
from jobs.bundles.migration import FINISHED, SWITCHED, Journal, Migrations, Plan, settings_of, to_yaml
from jobs.daily.cut import LogInMemory
from jobs.folder import JobFolder
from jobs.journals import Waiting
from jobs.settings import KafkaSettings, Settings, StreamSettings, load_settings
from uic.errors import BadInput, JobError
from uic.store.place import redis_url


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(
        plan=Plan(
            words=("7", "--history", "a b"), version=7, from_version=3, bundle=str(tmp_path / "bundle"), history="history",
            days=120, until_ms=1_700_000_000_000, start_ms=1_699_999_400_000, begins={0: 5, 1: 0}, store="/data/store",
            into=str(tmp_path / "job-7"), generation=2, run_generation=1, quarantine=None,
        ),
        done=("topics", "warm-up"), attempts=("a1",), goal={0: 9, 1: 2}, evidence=None,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    kafka = KafkaSettings(snapshots="snapshots-3", group="uic-3", username="u", password="secret")  # type: ignore[arg-type]  # text
    return Settings(kafka=kafka, stream=StreamSettings(job_dir=tmp_path / "job", idle_after_s=60))


def test_a_journal_is_read_as_it_was_written_and_nothing_else_is(journal: Journal, tmp_path: Path) -> None:
    assert Journal.from_json(journal.to_json(), tmp_path) == journal
    assert journal.plan.command == "uic bundle migrate 7 --history 'a b'"
    for text in ("{", "{}", '{"format": 2}', journal.to_json().replace('"version"', '"vision"')):
        with pytest.raises(JobError, match=r"cannot be read|reads format 1"):
            Journal.from_json(text, tmp_path)


def test_the_second_store_of_one_in_redis_is_another_one_there(journal: Journal, settings: Settings) -> None:
    plan = replace(journal.plan, store="redis:/cache:6379/2?name=live-3")
    second = settings_of(settings, plan)
    assert str(redis_url(plan.new_store)) == "redis://cache:6379/2?name=live-7"
    assert redis_url(second.store.path) == redis_url(plan.new_store)


def test_one_is_unfinished_until_it_is_over_or_given_up(journal: Journal, tmp_path: Path) -> None:
    migrations = Migrations(tmp_path)
    assert migrations.unfinished() is None
    for changes, is_over, runs_beside in (
        ({}, False, False),
        ({"done": ("topics", "warm-up", "start")}, False, True),
        ({"done": ("start", SWITCHED)}, False, True),
        ({"done": ("start", SWITCHED, FINISHED)}, True, False),
        ({"done": ("start",), "abandoned": True}, True, False),
    ):
        changed = replace(journal, **changes)  # type: ignore[arg-type]  # by name
        migrations.write(changed)
        assert (changed.is_over, changed.runs_beside) == (is_over, runs_beside)
        assert migrations.unfinished() == (None if is_over else changed)


def test_the_second_job_has_topics_group_folder_and_store_of_its_own_and_reads_the_same_events(
    journal: Journal, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = settings_of(settings, journal.plan)
    kafka: dict[str, Any] = {name: getattr(second.kafka, name) for name in ("events", "control", "snapshots", "dead", "group")}
    assert kafka == {
        "events": "events", "control": "control", "snapshots": "snapshots-7", "dead": "dead-letters-7", "group": "uic-7",
    }  # fmt: skip
    assert second.kafka.start == "2023-11-14T22:03:20+00:00"
    assert second.stream.not_before == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (second.stream.job_dir, second.store.path) == (tmp_path / "job-7" / "job", tmp_path / "job-7" / "store")
    text = to_yaml(second)
    assert "secret" not in text
    (tmp_path / "uic.yaml").write_text(text)
    monkeypatch.setenv("UIC__KAFKA__PASSWORD", "secret")
    assert load_settings(tmp_path / "uic.yaml") == second


def test_it_is_given_up_before_the_switch_and_not_after_it(journal: Journal, settings: Settings, tmp_path: Path) -> None:
    JobFolder(tmp_path / "job")

    def migration(journal: Journal) -> Migration:
        return Migration(
            journal, settings, job_dir=tmp_path / "job", log=LogInMemory({0: []}), prove=lambda *_: pytest.fail("asked"),
            waiting=Waiting(), progress=pytest.fail,  # type: ignore[arg-type]  # not used
        )  # fmt: skip

    with pytest.raises(BadInput, match="no way back by itself"):
        migration(replace(journal, done=("start", SWITCHED))).give_up()
    migration(replace(journal, attempts=())).give_up()
    (found,) = Migrations(tmp_path / "job").journals()
    assert found.abandoned
    assert found.is_over
