"""uic.yaml: typed, validated, weaker than the environment; nothing that nobody knows is let through."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings import Settings, load_settings
from jobs.train import train_config
from model.training.config import TrainConfig
from uic.errors import BadInput
from uic.variant import preset

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings_of(content: dict[str, Any], path: Path = Path("given.yaml")) -> Settings:
    path.write_text(yaml.safe_dump(content))
    return load_settings(path)


def test_without_a_file_everything_has_its_default() -> None:
    assert load_settings(None) == Settings()
    assert train_config(Settings()) == TrainConfig()
    assert Settings().model.variant() == preset("default")


def test_the_projects_own_file_says_the_defaults() -> None:
    own = load_settings(PROJECT / "uic.yaml")
    assert own.model_copy(update={"train": {}}) == Settings()
    assert train_config(own) == TrainConfig()


def test_the_file_in_the_folder_counts_where_no_other_is_named() -> None:
    settings_of({"stream": {"lateness_s": 5}}, Path("uic.yaml"))
    assert load_settings(None).stream.lateness_s == 5
    assert settings_of({"stream": {"lateness_s": 6}}).stream.lateness_s == 6


def test_an_empty_file_changes_nothing() -> None:
    Path("given.yaml").write_text("# nothing yet\n")
    assert load_settings(Path("given.yaml")) == Settings()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"trian": {}}, "trian"),
        ({"model": {"slotz": 4}}, "model.slotz"),
        ({"stream": {"lateness": 4}}, "stream.lateness"),
        ({"store": {"paht": "x"}}, "store.paht"),
    ],
)
def test_an_unknown_key_is_refused_by_its_name(content: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=rf"given\.yaml: {named}: Extra inputs are not permitted"):
        settings_of(content)


def test_an_unknown_key_of_training_is_refused_by_its_name() -> None:
    with pytest.raises(BadInput, match=r"train\.epoch: .*\(got 3\)"):
        train_config(settings_of({"train": {"epoch": 3}}))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"stream": {"lateness_s": "soon"}}, "stream.lateness_s: .*got 'soon'"),
        ({"stream": {"checkpoint_interval_s": 0}}, "stream.checkpoint_interval_s: .*got 0"),
        ({"stream": {"backend": "disk"}}, "stream.backend: .*'hashmap' or 'rocksdb' .*got 'disk'"),
        ({"model": {"embedding": 0}}, "model.embedding: .*got 0"),
        ({"model": {"preset": "best"}}, "model.preset: .*got 'best'"),
        ({"store": "here"}, "store: .*got 'here'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_what_came(content: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        settings_of(content)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"epochs": "many"}, "train.epochs: .*got 'many'"),
        ({"epochs": 0}, "train.epochs: expected at least 1, got 0"),
        ({"learning_rate": 0}, "train.learning_rate: expected more than 0, got 0"),
        ({"learning_rate": ".nan"}, "train.learning_rate: "),
        ({"exclude_days": ["yesterday"]}, "train.exclude_days: expected YYYY-MM-DD, got 'yesterday'"),
        ({"targets": "some"}, r"train.targets.*'all' or 'last' \(got 'some'\)"),
    ],
)
def test_a_wrong_value_of_training_is_named_too(section: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        train_config(settings_of({"train": section}))


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        settings_of({"stream": {"lateness_s": "soon", "backend": "disk"}, "modle": {}})
    for named in ("stream.lateness_s", "stream.backend", "modle"):
        assert named in str(refused.value)


def test_the_environment_is_stronger_than_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__STREAM__LATENESS_S", "5")
    monkeypatch.setenv("UIC__STORE__PATH", "elsewhere")
    monkeypatch.setenv("UIC__MODEL__SLOTS", "6")
    settings = settings_of({"stream": {"lateness_s": 7, "job_dir": "mine"}, "model": {"slots": 4, "embedding": 4}})
    assert settings.stream.lateness_s == 5
    assert settings.stream.job_dir == Path("mine")
    assert settings.store.path == Path("elsewhere")
    assert (settings.model.variant().slots, settings.model.variant().event_width) == (6, 8)


def test_the_environment_reaches_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__TRAIN__EPOCHS", "2")
    monkeypatch.setenv("UIC__TRAIN__LEARNING_RATE", "1e-2")
    monkeypatch.setenv("UIC__TRAIN__TARGETS", "last")
    monkeypatch.setenv("UIC__TRAIN__EXCLUDE_DAYS", '["2017-11-11"]')
    config = train_config(settings_of({"train": {"epochs": 9, "patience": 4}}))
    assert config == TrainConfig(epochs=2, patience=4, learning_rate=0.01, targets="last", exclude_days=("2017-11-11",))


def test_the_environment_reaches_switches_and_flink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__MODEL__SWITCHES", '{"miu": false}')
    monkeypatch.setenv("UIC__FLINK", '{"state.backend.rocksdb.localdir": "state-on-disk"}')
    settings = load_settings(None)
    assert not settings.model.variant().miu
    assert settings.flink == {"state.backend.rocksdb.localdir": "state-on-disk"}


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("UIC__STREAM__LATENESS_S", "soon", "environment: stream.lateness_s: .*got 'soon'"),
        ("UIC__STREAM__LATENES_S", "5", "environment: stream.latenes_s: Extra inputs"),
        ("UIC__STREM__LATENESS_S", "5", "UIC__STREM__LATENESS_S"),
        ("UIC__STREAM", "{", "stream"),
        ("UIC__STORE", "[]", "store"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=named):
        load_settings(None)


def test_what_was_asked_is_stronger_than_the_file_and_the_file_than_the_preset() -> None:
    settings = settings_of({"model": {"preset": "official"}, "train": {"loss": "bce", "epochs": 3}})
    config = train_config(settings, epochs=4)
    assert (config.loss, config.epochs, config.regulariser) == ("bce", 4, "raw")


def test_flinks_own_keys_are_passed_through_as_text() -> None:
    given = {"taskmanager.memory.managed.size": "1g", "rest.port": 8081, "pipeline.object-reuse": True, "ratio": 0.5}
    expected = {"taskmanager.memory.managed.size": "1g", "rest.port": "8081", "pipeline.object-reuse": "true", "ratio": "0.5"}
    assert settings_of({"flink": given}).flink == expected


@pytest.mark.parametrize("value", [None, {"size": "1g"}, ["a", "b"]])
def test_a_key_of_flink_without_one_plain_value_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match=r"flink\.memory: .*got"):
        settings_of({"flink": {"memory": value}})


def test_an_unknown_switch_is_refused_with_the_known_ones() -> None:
    settings = settings_of({"model": {"switches": {"miuu": False}}})
    with pytest.raises(BadInput, match=r"model\.switches: unknown miuu; known are .*miu, "):
        settings.model.variant()


def test_a_switch_is_changed_in_its_preset() -> None:
    settings = settings_of({"model": {"preset": "paper", "switches": {"miu": False}, "top_channels": 2}})
    assert settings.model.variant() == preset("paper", miu=False, top_channels=2)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"model: [", "the settings cannot be read"),
        (b"\xff\xfe\x00", "the settings cannot be read"),
        (b"- one\n- two\n", "expected sections such as `train:`, got list"),
        (b"just text", "expected sections such as `train:`, got str"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(content: bytes, named: str) -> None:
    Path("given.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=rf"given\.yaml: {named}"):
        load_settings(Path("given.yaml"))


def test_a_file_that_is_not_there_is_refused_where_it_was_named() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml: the settings cannot be read"):
        load_settings(Path("nowhere.yaml"))
