"""`uic dev up|status|env|down`: Kafka and a Flink cluster on this machine, for trying out and for tests."""

import os
import shlex
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.dev.record import StackFolder, StackRecord
from jobs.dev.supervisor import hold, start_detached
from jobs.launch import flink_options
from jobs.settings import KafkaSettings
from uic.errors import BadInput, EnvironmentProblem

DEFAULT_DIR = Path(".uic-dev")
_STOP_S = 60.0

dev_app = typer.Typer(help="Kafka and a Flink cluster on this machine, for trying out.", no_args_is_help=True)
_Dir = Annotated[Path, typer.Option("--dir", help="Logs and data of the stack; one stack a folder.")]


@dev_app.callback()
def _dev() -> None:
    """Kafka and a Flink cluster on this machine, for trying out."""


@dev_app.command("up")
def up_command(
    ctx: typer.Context,
    taskmanagers: Annotated[int, typer.Option(min=0, max=16, help="TaskManagers, each with one slot.")] = 1,
    directory: _Dir = DEFAULT_DIR,
    no_kafka: Annotated[bool, typer.Option("--no-kafka", help="Flink alone.")] = False,
    redis: Annotated[
        bool, typer.Option("--redis", help="A Redis too, for the online store; it forgets all with the stack.")
    ] = False,
    sasl: Annotated[bool, typer.Option("--sasl", help="A broker that asks for user and password.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="A broker that speaks TLS alone, with certificates made for it.")] = False,
    flink: Annotated[list[str] | None, typer.Option(help="One of Flink's own settings, key=value; may be repeated.")] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C instead of working in the background.")
    ] = False,
) -> None:
    """Start Kafka, a JobManager and TaskManagers on free ports of the loopback interface, and make the topics.

    They run until `uic dev down`, with which the topics go too.

    Example: uic dev up --taskmanagers 2
    """
    folder = StackFolder(directory)
    options = {
        "taskmanagers": taskmanagers,
        "kafka": not no_kafka,
        "redis": redis,
        "sasl": sasl,
        "tls": tls,
        "flink": flink_options(flink or []),
    }
    if (sasl or tls) and no_kafka:
        raise BadInput("--sasl and --tls are the broker's: leave out --no-kafka")
    if folder.is_held():
        running = _running(folder)
        if running is not None:
            typer.echo(f"A stack runs in {directory} already, as process {folder.supervisor()}.")
            _show(running, directory, [])
            return
        _clear(folder)

    def show() -> None:
        record = folder.record()
        assert record is not None
        topics = _make_topics(record, ctx.obj.kafka)
        _show(record, directory, topics)

    if foreground:
        hold(folder, options, _say, show)
    start_detached(folder, options, _say)
    show()


@dev_app.command("status")
def status_command(directory: _Dir = DEFAULT_DIR) -> None:
    """Show the servers of the stack, whether they run, and their logs; exit code 1 if there is no stack.

    Example: uic dev status
    """
    import psutil
    from rich.console import Console
    from rich.table import Table

    record = _running(StackFolder(directory)) if directory.is_dir() else None
    if record is None:
        typer.echo(f"No stack runs in {directory}. Start one: uic dev up")
        raise typer.Exit(1)
    table = Table("node", "process", "running", "port", "log", box=None)
    for node in record.nodes:
        try:
            status = psutil.Process(node.pid).status()
        except psutil.NoSuchProcess:
            status = psutil.STATUS_DEAD
        gone = status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)
        running = "no" if gone else "paused" if status == psutil.STATUS_STOPPED else "yes"
        table.add_row(
            node.name,
            str(node.pid),
            running,
            "" if node.port is None else str(node.port),
            str(directory / "logs" / Path(node.log).name),
        )
    Console(soft_wrap=True).print(table)


@dev_app.command("env")
def env_command(directory: _Dir = DEFAULT_DIR) -> None:
    """Print what makes the commands of uic use this stack, for a shell.

    Example: eval "$(uic dev env)"
    """
    record = _running(StackFolder(directory)) if directory.is_dir() else None
    if record is None:
        raise EnvironmentProblem(f"{directory}: no stack runs there; start one: uic dev up")
    for name, value in record.environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@dev_app.command("down")
def down_command(directory: _Dir = DEFAULT_DIR) -> None:
    """Stop the stack in order and remove its data; the logs stay until the next `uic dev up`.

    Example: uic dev down
    """
    folder = StackFolder(directory) if directory.is_dir() else None
    if folder is None or not folder.is_held():
        typer.echo(f"No stack runs in {directory}.")
        return
    supervisor = folder.supervisor()
    if supervisor is not None:
        os.kill(supervisor, signal.SIGTERM)
        folder.wait_until_free(_STOP_S)
    _clear(folder)
    typer.echo(f"Stopped. The logs are in {directory / 'logs'}.")


def _running(folder: StackFolder) -> StackRecord | None:
    """The stack whose supervisor lives; waits for one that is just starting."""
    while folder.supervisor() is not None:
        record = folder.record()
        if record is not None:
            return record
        time.sleep(0.1)
    return None


def _clear(folder: StackFolder) -> None:
    """End what a supervisor has left behind that was killed or does not end."""
    if folder.wait_until_free(5):
        return
    supervisor = folder.supervisor()
    if supervisor is not None:
        os.kill(supervisor, signal.SIGKILL)
    killed = folder.kill_what_is_left()
    if not folder.wait_until_free(10):
        raise EnvironmentProblem(f"{folder.path}: somebody holds {folder.path / 'lock'} still, after kill -9 of {killed}")


def _make_topics(record: StackRecord, wanted: KafkaSettings) -> list[str]:
    from jobs.topics import create

    if record.kafka is None:
        return []
    return create(KafkaSettings.model_validate({**wanted.model_dump(), **record.kafka}))


def _show(record: StackRecord, directory: Path, topics: list[str]) -> None:
    count = sum(node.name.startswith("taskmanager") for node in record.nodes)
    if record.kafka is not None:
        typer.echo(f"Kafka   {record.kafka['bootstrap']}  {record.kafka['security_protocol']}")
    typer.echo(f"Flink   {record.url}  {count} TaskManager{'' if count == 1 else 's'}")
    if record.store is not None:
        typer.echo(f"Redis   {record.store}")
    if topics:
        typer.echo(f"topics  {', '.join(topics)}")
    typer.echo(f"logs    {directory / 'logs'}")
    where = "" if directory == DEFAULT_DIR else f" --dir {shlex.quote(str(directory))}"
    typer.echo(f'For the commands of uic in this shell: eval "$(uic dev env{where})"')


def _say(text: str) -> None:
    typer.echo(text, err=True)
