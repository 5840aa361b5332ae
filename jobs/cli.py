"""The command `uic`. Each group of commands is a module; heavy libraries load only in the command that needs them."""

import errno
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from jobs.bundles.command import bundle_app
from jobs.chaos.command import chaos_command
from jobs.checkpoint_commands import checkpoint_app
from jobs.config import config_app
from jobs.data import data_app
from jobs.demo import demo_command
from jobs.dev.command import dev_app
from jobs.dlq import dlq_app
from jobs.doctor.command import doctor_command
from jobs.events import events_app
from jobs.experiment.command import experiment_command
from jobs.export import export_command
from jobs.golden import golden_app
from jobs.job import job_app
from jobs.rollback.command import rollback_app
from jobs.score import score_command, user_app
from jobs.serve import serve_command
from jobs.settings import load_settings
from jobs.store.command import store_app
from jobs.topics import topics_app
from jobs.train import evaluate_command, plot_app, train_command
from jobs.verify import verify_command
from jobs.warm_up.command import warm_up_command
from uic.errors import UicError

app = typer.Typer(
    name="uic",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="User Interest Center: lifelong user interest, kept up to date by a stream. Start with `uic demo`.",
)
app.command("demo")(demo_command)
app.add_typer(data_app, name="data")
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("experiment")(experiment_command)
app.command("export")(export_command)
app.add_typer(bundle_app, name="bundle")
app.add_typer(events_app, name="events")
app.add_typer(topics_app, name="topics")
app.add_typer(job_app, name="job")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(dlq_app, name="dlq")
app.add_typer(config_app, name="config")
app.command("doctor")(doctor_command)
app.add_typer(store_app, name="store")
app.add_typer(user_app, name="user")
app.command("score")(score_command)
app.command("serve")(serve_command)
app.command("warm-up")(warm_up_command)
app.add_typer(rollback_app, name="rollback")
app.command("verify")(verify_command)
app.command("chaos")(chaos_command)
app.add_typer(plot_app, name="plot")
app.add_typer(golden_app, name="golden")
app.add_typer(dev_app, name="dev")


@app.callback()
def settings_callback(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings; default: uic.yaml here, if any.")] = None,
) -> None:
    """User Interest Center: lifelong user interest, kept up to date by a stream. Start with `uic demo`."""
    ctx.obj = load_settings(config)


@app.command("version")
def version_command() -> None:
    """Print the version."""
    typer.echo(version("user-interest-center"))


def main() -> None:
    """Run the command line; a UicError is printed without a traceback and ends with exit code 2."""
    try:
        app()
    except UicError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = dict.fromkeys(("torch", "pandas", "sklearn"), "train") | dict.fromkeys(("pyflink", "pyarrow"), "stream")
        extra |= {"redis": "redis", "onnx": "export"}
        extra |= dict.fromkeys(("starlette", "uvicorn", "uvloop", "httptools", "prometheus_client", "httpx"), "serve")
        name = (error.name or "").partition(".")[0]
        if name not in extra:
            raise
        wanted = f"pip install 'user-interest-center[{extra[name]}]'"
        typer.echo(f"EnvironmentProblem: this command needs {name}, which is not installed: {wanted}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = error.filename or "a folder this command writes to"
        typer.echo(f"EnvironmentProblem: {where}: no space left on the disk; nothing finished was changed", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
