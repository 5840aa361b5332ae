"""`uic config schema|show`: what uic.yaml may say, and what counts at the moment and why."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
import yaml
from pydantic import BaseModel, SecretStr, TypeAdapter

from jobs.settings import DEFAULT_FILE, SECRETS, Settings
from uic.models import COMPARED
from uic.variant import Variant

config_app = typer.Typer(help="The settings: what uic.yaml may say, and what counts.", no_args_is_help=True)
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PREFIX = "UIC__"
_MASK = "**********"
_SECRET = re.compile("password|secret|token|credential|access-?key|jaas", re.IGNORECASE)
Json = dict[str, Any]  # any JSON object


@config_app.callback()
def _config() -> None:
    """The settings: what uic.yaml may say, and what counts."""


@config_app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of uic.yaml. An editor that is given it completes the keys and marks what is wrong.

    Example: uic config schema > uic.schema.json
    """
    typer.echo(json.dumps(schema(), indent=2))


@config_app.command("show")
def show_command(
    ctx: typer.Context, output: Annotated[Literal["yaml", "json"], typer.Option(help="For people or for programs.")] = "yaml"
) -> None:
    """Print the settings that count, secrets masked, each that is not the default with where it comes from.

    Example: uic -c uic.yaml config show
    """
    file: Path | None = (ctx.find_root().params.get("config")) or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    content = {} if file is None else yaml.safe_load(file.read_text()) or {}
    rows = list(effective(ctx.obj, content, str(file), os.environ))
    if output == "json":
        typer.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    section = ""
    for row in rows:
        head, _, name = row.key.partition(".")
        if head != section:
            section = head
            typer.echo(f"{head}:" if name else f"{head}: {json.dumps(row.value)}")
        if name:
            typer.echo(f"  {name}: {json.dumps(row.value)}" + ("" if row.origin == "default" else f"  # {row.origin}"))


class Row(NamedTuple):
    """One setting that counts, and where it comes from: `default`, a file, or an environment variable."""

    key: str
    value: Any
    origin: str


def schema() -> Json:
    """The JSON Schema of uic.yaml; the fields of `train` are named where PyTorch is installed, which they need."""
    content: Json = Settings.model_json_schema()
    sections = content["$defs"]
    # A secret in the file is refused, also by the loader.
    for section, secret in SECRETS:
        kind = Settings.model_fields[section].annotation
        assert kind is not None
        del sections[kind.__name__]["properties"][secret]
    sections["ModelSettings"]["properties"]["switches"] |= _fields_of_models()
    if find_spec("torch") is not None:
        from model.training.config import TrainConfig

        content["properties"]["train"] |= _fields_of(TrainConfig, leaving=set())
    content["properties"]["flink"]["additionalProperties"] = {"type": ["string", "number", "boolean"]}
    return {"$schema": _DIALECT, **content, "title": "uic.yaml"}


def effective(settings: Settings, content: Mapping[str, Any], file: str, environment: Mapping[str, str]) -> Iterator[Row]:
    """Every setting with its origin; `content` is what the file says."""
    upper = {name.upper(): name for name in environment}
    for section in type(settings).model_fields:
        value = getattr(settings, section)
        said = content.get(section) or {}
        default = Settings.model_fields[section].get_default(call_default_factory=True)
        fields = {name: getattr(value, name) for name in type(value).model_fields} if isinstance(value, BaseModel) else value
        if not fields:
            yield Row(section, {}, "default")
        for name, each in fields.items():
            variables = (f"{_PREFIX}{section}__{name}".upper(), f"{_PREFIX}{section}".upper())
            named = next((upper[variable] for variable in variables if variable in upper), None)
            standard = getattr(default, name, None) if isinstance(value, BaseModel) else default.get(name)
            origin = named or (file if isinstance(said, dict) and name in said else None)
            if origin is None:
                origin = "default" if each == standard else "environment"
            yield Row(f"{section}.{name}", _shown(name, each), origin)


def _shown(name: str, value: Any) -> Any:
    if value is not None and (isinstance(value, SecretStr) or _SECRET.search(name)):
        return _MASK
    return str(value) if isinstance(value, Path) else value


def _fields_of_models() -> Json:
    """The fields of every model as one section; MIMN's words where several have a field."""
    parts = [_fields_of(kind, leaving={"preset"})["properties"] for kind in (*COMPARED.values(), Variant)]
    return {"properties": {name: each for part in parts for name, each in part.items()}, "additionalProperties": False}


def _fields_of(kind: type, *, leaving: set[str]) -> Json:
    """The schema of a dataclass as a section, each field with the words that its docstring has for it."""
    found = TypeAdapter(kind).json_schema()
    words = dict(_words(kind.__doc__ or ""))
    properties = {
        name: {**each, "description": words[name]} if name in words else each
        for name, each in found["properties"].items()
        if name not in leaving
    }
    assert set(properties) | leaving == {field.name for field in dataclasses.fields(kind)}
    return {"properties": properties, "additionalProperties": False}


def _words(docstring: str) -> Iterator[tuple[str, str]]:
    """The fields that a docstring explains, a name and two spaces or more before the words.

    >>> list(_words("Head.\\n\\n    epochs   how often\\n             all is seen\\n    seed  of the draw"))
    [('epochs', 'how often all is seen'), ('seed', 'of the draw')]
    """
    name, parts = "", [""]
    for line in [*docstring.splitlines(), ""]:
        match = re.match(r" {4,8}(\w+) {2,}(\S.*)", line)
        if match is not None or not line.strip():
            if name:
                yield name, " ".join(parts)
            name, parts = (match[1], [match[2].strip()]) if match is not None else ("", [""])
        else:
            parts.append(line.strip())
