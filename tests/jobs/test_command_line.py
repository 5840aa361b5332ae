"""The command `uic` as its users meet it: help everywhere, one line for what is wrong, quick to start."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command import Uic

from jobs.cli import app

HEAVY = ("torch", "pandas", "pyflink", "sklearn", "matplotlib", "onnxruntime", "pyarrow")
Command = Any  # typer carries its own click, whose classes have no public name


def commands(group: Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Every command and group with the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_help_says_what_a_command_does(uic: Uic, path: tuple[str, ...], command: Command) -> None:
    ended = uic(*path, "--help")
    assert ended.code == 0
    assert command.help
    assert " ".join(command.help.split())[:40] in " ".join(ended.out.split())
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"


@pytest.mark.parametrize(
    ("path", "command"),
    [each for each in ALL if any(one.required for one in each[1].params)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_that_wants_arguments_shows_an_example(uic: Uic, path: tuple[str, ...], command: Command) -> None:
    assert f"Example: uic {' '.join(path)} " in " ".join(uic(*path, "--help").out.split())


def test_the_groups_are_all_there() -> None:
    names = {" ".join(path) for path, _ in ALL}
    assert {
        "demo",
        "train",
        "evaluate",
        "export",
        "job run",
        "dlq list",
        "user show",
        "score",
        "verify",
        "golden check",
    } <= names


def test_help_starts_without_any_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['uic', '--help']\n"
        "from jobs.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("-c", "nowhere.yaml", "version"), "BadInput: nowhere.yaml: the settings cannot be read"),
        (("evaluate", "run", "--data", "nothing"), "BadInput: nothing: expected a dataset directory, but there is none"),
        (("export", "run", "--out", "bundle"), "BadInput: run: expected a run directory, but there is none"),
        (("plot", "utilization", "run"), "BadInput: run: expected a run directory, but there is none"),
        (("train", "--data", "d", "--out", "r", "--preset", "best"), "BadInput: model.preset: expected one of official, paper"),
        (("train", "--data", "d", "--out", "r", "--exclude-day", "x"), "BadInput: train.exclude_days: expected YYYY-MM-DD"),
        (("score", "--user", "u", "--items", "1", "--bundle", "b"), "BundleError: b: expected a bundle directory"),
        (("user", "show", "u", "--bundle", "b"), "BundleError: b: expected a bundle directory"),
        (("verify", "--events", "e", "--bundle", "b"), "BundleError: b: expected a bundle directory"),
        (("dlq", "list"), "BadInput: job/letters.sqlite: expected the letters of a job"),
        (("golden", "check", "none.npz"), "BadInput: none.npz: expected golden vectors"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_one_line_and_exit_code_2(uic: Uic, arguments: tuple[str, ...], line: str) -> None:
    ended = uic(*arguments)
    assert ended.code == 2
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.out + ended.err


def test_a_mistake_in_the_words_is_exit_code_2_too(uic: Uic) -> None:
    assert uic("trian").code == 2
    assert uic("train", "--data").code == 2


def test_the_version_is_printed(uic: Uic) -> None:
    ended = uic("version")
    assert ended.code == 0
    assert ended.out.strip().count(".") == 2


def test_chaos_names_its_faults_and_refuses_what_it_does_not_know(uic: Uic, tmp_path: Path) -> None:
    listed = uic("chaos", "--list")
    assert listed.code == 0
    assert {"control", "kill-ten-times", "hot-user"} <= {line.split()[0] for line in listed.out.splitlines()}
    assert "--bundle: name the bundle" in uic("chaos", "hot-user").err
    unknown = uic("chaos", "meteor", "--bundle", str(tmp_path))
    assert (unknown.code, "fault: expected one of control, " in unknown.err) == (2, True)
    assert "got meteor" in unknown.err
    assert uic("chaos", "--bundle", str(tmp_path / "none")).code == 2
