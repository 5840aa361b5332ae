"""`uic experiment`: the tables and figures of the paper's section 5, on any dataset."""

import dataclasses
import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from jobs.settings import Settings
from jobs.train import train_config

if TYPE_CHECKING:  # torch and pandas take seconds to load, and `uic --help` must not
    from jobs.experiment.task import Days, Task
    from model.data.dataset import Dataset
    from model.experiments.arms import Experiment
    from model.experiments.result import Finished

Name = Literal["table2", "table3", "table4", "table5", "fig1", "fig6", "long-run", "tuning"]


def experiment_command(
    ctx: typer.Context,
    name: Annotated[Name, typer.Argument(help="Which table or figure of the paper; or long-run, or tuning.")],
    data: Annotated[
        Path,
        typer.Option(help="A dataset that `uic data prepare` wrote, or a folder of those of several days (--progressive)."),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the pages. Default: results/ and the dataset's name.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs; what is trained there is not trained again.")] = Path(
        "runs/experiments"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="How often each row is trained, with a seed of its own each time.")] = 3,
    seed: Annotated[int, typer.Option(help="The first seed; the next repeat has the next one.")] = 7,
    epochs: Annotated[int | None, typer.Option(help="At most so many; else train.epochs of uic.yaml.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="all, last, or at most so many training samples a user, for all models.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this row, and the controls; repeatable.")] = None,
    length: Annotated[int, typer.Option(min=1, help="How many raw events din, arnn and dien look at.")] = 100,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time, each a process with one thread; 0: in this process.")] = 1,
    days: Annotated[int, typer.Option(min=1, help="Table 5: how many daily bundles follow the first.")] = 3,
    unusual_day: Annotated[str | None, typer.Option(help="Table 5: the day (YYYY-MM-DD) left out; else the busiest.")] = None,
    through: Annotated[str, typer.Option(help="What each run is started through, such as `nice -n 19` or `srun`.")] = "",
) -> None:
    """Train what a table or figure of the paper's section 5 needs, and write its page: Markdown, JSON and a picture.

    Killed and asked again, it goes on. All models see the same samples; epochs are chosen by validation alone. Every ranking
    comes with a paired bootstrap interval over users, beside two controls and the paper's own figures. Given a folder of
    several days (`uic data prepare table --progressive`), every row is trained for each day and tested on it: NAME-days.md.

    Example: uic experiment table2 --data data/ml-100k --targets 20 --epochs 8
    """
    from jobs.experiment.datasets import datasets_of, people_of
    from jobs.experiment.farm import Farm
    from model.experiments import page
    from model.experiments.days import busiest_day, table5
    from model.experiments.result import result_of
    from model.experiments.tables import EXPERIMENTS

    settings: Settings = ctx.obj
    datasets = datasets_of(data, name)
    dataset = datasets[-1]
    asked = {name: value for name, value in (("epochs", epochs), ("targets", targets)) if value is not None}
    seeds = list(range(seed, seed + repeats))
    cut = _days(dataset, days) if name == "table5" else None
    experiment = EXPERIMENTS[name] if cut is None else table5(days, unusual_day or busiest_day(dataset, cut.cuts_ms[-1]))
    experiment = experiment if only is None else experiment.only(only)
    tasks = [task for each in datasets for task in tasks_of(experiment, each, runs, settings, seeds, length, asked, cut)]
    console = Console(soft_wrap=True, highlight=False)
    with console.status("") as status:
        farm = Farm(
            jobs=jobs, through=shlex.split(through), said=lambda line: console.print(line, markup=False), moving=status.update
        )
        farm.run(tasks)
        status.update("comparing")
        asked_for = {arm.name for arm in experiment.arms}
        finished = [
            dataclasses.replace(each, day=task.data.name if len(datasets) > 1 else "")
            for task in tasks
            for each in finished_of(task)
            if each.arm in asked_for
        ]
        context = _context(datasets, settings, tasks, seeds, length, jobs)
        result = result_of(experiment, finished, context, people_of(datasets)) | _extras(experiment, dataset, finished)
    for path in page.write(result, out or Path("results") / data.resolve().name):
        console.print(str(path), markup=False)


def tasks_of(
    experiment: "Experiment",
    dataset: "Dataset",
    runs: Path,
    settings: Settings,
    seeds: list[int],
    length: int,
    asked: dict[str, Any],
    days: "Days | None" = None,
) -> list["Task"]:
    """Every arm with every seed; all of the first seed come first, so that a first look needs no patience."""
    from jobs.experiment.task import task_of, variant_of
    from model.experiments.days import LINEAGE_ROWS

    tasks: list[Task] = []
    for seed in seeds:
        for arm in experiment.arms:
            is_lineage = days is not None and arm.name in LINEAGE_ROWS
            if is_lineage and any(task.is_lineage and task.seed == seed for task in tasks):
                continue  # the rows of a lineage are of one training
            config = train_config(settings, **{**asked, **arm.train, "seed": seed})
            variant = variant_of(arm, settings, length)
            tasks.append(task_of(arm, dataset, runs, variant, config, days, is_lineage=is_lineage))
    return tasks


def finished_of(task: "Task") -> list["Finished"]:
    """The rows that one task has trained: one, or those of a lineage."""
    from model.experiments.result import Finished

    figures = task.figures()
    if not task.is_lineage:
        return [Finished(arm=task.arm, seed=task.seed, run=task.run, figures=figures)]
    return [
        Finished(arm=row, seed=task.seed, run=task.run / each["folder"], figures=each) for row, each in figures["rows"].items()
    ]


def _days(dataset: "Dataset", days: int) -> "Days":
    from jobs.experiment.task import Days
    from model.experiments.days import cuts

    cuts_ms, test_to_ms = cuts(dataset, days)
    return Days(cuts_ms=cuts_ms, test_to_ms=test_to_ms)


def _extras(experiment: "Experiment", dataset: "Dataset", finished: list[Any]) -> dict[str, Any]:
    from model.experiments.extras import history_by_days, long_runs, slot_shares, slot_writes

    if experiment.name == "fig6":
        of_mimn = [each for each in finished if experiment.arm(each.arm).model == "mimn"]
        return {"slot_shares": slot_shares(of_mimn), "slot_writes": slot_writes(of_mimn, dataset)}
    if experiment.name == "fig1":
        return {"history_by_days": history_by_days(dataset)}
    if experiment.name == "long-run":
        return {"long_run": long_runs([each for each in finished if experiment.arm(each.arm).train == {}], dataset)}
    return {}


def _context(
    datasets: list["Dataset"], settings: Settings, tasks: list["Task"], seeds: list[int], length: int, jobs: int
) -> dict[str, Any]:
    """What a page must say of data, settings, machine and command."""
    import torch

    from jobs.experiment.datasets import described
    from model.experiments.intervals import RESAMPLES

    config = tasks[0].config
    return {
        "data": described(datasets, tasks[0]),
        "asked": {
            "targets": config.targets, "epochs": config.epochs, "seeds": seeds, "length": length, "jobs": max(1, jobs),
            "preset": settings.model.preset,
        },
        "train": {name: value for name, value in config.to_json().items() if name not in ("seed", "history")},
        "resamples": RESAMPLES,
        "command": _command(sys.argv[1:]),
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def _command(words: list[str]) -> str:
    """The command as it was given, but for what runs were started through: that is this machine's and changes no figure."""
    if "--through" in words:
        place = words.index("--through")
        words = words[:place] + words[place + 2 :]
    return shlex.join(["uic", *words])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
