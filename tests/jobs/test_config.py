"""`uic config`: a schema that says what the loader says, and every setting with where it comes from."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from command import Uic

from jobs.config import schema
from jobs.settings import SECRETS, Settings, load_settings
from uic.errors import BadInput

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    content = schema()
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_projects_own_file_and_an_empty_one_are_valid(validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(yaml.safe_load((PROJECT / "uic.yaml").read_text()))
    validator.validate({})


@pytest.mark.parametrize(
    "content",
    [
        {"trian": {}},
        {"model": {"slotz": 4}},
        {"model": {"preset": "best"}},
        {"model": {"embedding": 0}},
        {"model": {"switches": {"miuu": False}}},
        {"stream": {"lateness_s": "soon"}},
        {"stream": {"backend": "disk"}},
        {"stream": {"checkpoint_interval_s": 0}},
        {"train": {"epoch": 3}},
        {"train": {"targets": "some"}},
        {"kafka": {"password": "secret"}},
        {"kafka": {"security_protocol": "TLS"}},
        {"flink": {"memory": {"size": "1g"}}},
        {"store": "here"},
    ],
    ids=json.dumps,
)
def test_what_the_loader_refuses_the_schema_refuses(
    validator: jsonschema.Draft202012Validator, content: dict[str, Any], tmp_path: Path
) -> None:
    assert list(validator.iter_errors(content))
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput):  # noqa: PT012  # some sections are read where they are used
        settings = load_settings(tmp_path / "given.yaml")
        settings.model.variant()
        from jobs.train import train_config

        train_config(settings)


def test_every_setting_but_the_secret_is_in_the_schema_with_its_default(
    validator: jsonschema.Draft202012Validator,
) -> None:
    content = validator.schema
    for section, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and hasattr(kind, "model_fields"):
            properties = content["$defs"][kind.__name__]["properties"]
            secrets = {secret for where, secret in SECRETS if where == section}
            assert set(properties) == set(kind.model_fields) - secrets, section
            assert secrets == {name for name, each in kind.model_fields.items() if "SecretStr" in str(each.annotation)}
    assert content["$defs"]["StreamSettings"]["properties"]["lateness_s"]["default"] == 86_400
    assert content["properties"]["train"]["properties"]["chunk"]["description"].startswith("events between two cuts")


def test_the_command_prints_the_schema(uic: Uic) -> None:
    ended = uic("config", "schema")
    assert ended.code == 0
    assert json.loads(ended.out)["title"] == "uic.yaml"


def test_what_counts_is_shown_with_where_it_comes_from(uic: Uic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given.yaml").write_text("stream: {lateness_s: 5}\nflink: {s3.secret-key: abc, rest.port: 1}\n")
    monkeypatch.setenv("UIC__KAFKA__PASSWORD", "hidden")
    monkeypatch.setenv("UIC__STORE", '{"path": "elsewhere"}')
    ended = uic("--config", "given.yaml", "config", "show", "--output", "json")
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(ended.out)}
    assert rows["stream.lateness_s"] == (5, "given.yaml")
    assert rows["kafka.password"] == ("**********", "UIC__KAFKA__PASSWORD")
    assert rows["store.path"] == ("elsewhere", "UIC__STORE")
    assert rows["flink.rest.port"] == ("1", "given.yaml")
    assert rows["flink.s3.secret-key"] == ("**********", "given.yaml")
    assert rows["stream.backend"] == ("hashmap", "default")
    assert not {"hidden", "abc"} & set(ended.out.replace('"', " ").split())


def test_what_is_shown_can_be_used_as_a_file(uic: Uic, tmp_path: Path) -> None:
    (tmp_path / "uic.yaml").write_text("stream: {lateness_s: 5, job_dir: mine}\nflink: {rest.port: 1}\ntrain: {epochs: 3}\n")
    shown = uic("config", "show").out
    assert "  lateness_s: 5  # uic.yaml" in shown
    content = yaml.safe_load(shown)
    assert all(content[section][secret] is None for section, secret in SECRETS)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(content))
    assert load_settings(tmp_path / "again.yaml") == load_settings(tmp_path / "uic.yaml")
