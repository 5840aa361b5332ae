"""The catalogue of a job folder, and all that is done around its midnights, from the settings."""

from collections.abc import Callable
from pathlib import Path

from jobs.daily.catalogue import KIND, Catalogue
from jobs.daily.cut import KafkaLog
from jobs.daily.job import ClusterJob
from jobs.daily.midnights import Midnights
from jobs.folder import JobFolder
from jobs.settings import Settings
from uic import artefact
from uic.clock import Days
from uic.errors import BadInput


def catalogue_path(settings: Settings, job_dir: Path | None = None) -> Path:
    """Where the daily checkpoints of a job are: `daily.catalogue`, else beside its folder.

    >>> str(catalogue_path(Settings(), Path("data/job")))
    'data/job-daily'
    """
    folder = job_dir or settings.stream.job_dir
    return settings.daily.catalogue or folder.with_name(f"{folder.name}-daily")


def open_catalogue(settings: Settings, job_dir: Path | None = None) -> Catalogue:
    """The catalogue that is there; raises BadInput where there is none."""
    path = catalogue_path(settings, job_dir)
    if artefact.kind_of(path) != KIND:
        raise BadInput(
            f"{path}: no catalogue of daily checkpoints there; `uic checkpoint create` makes one with its first entry"
        )
    return Catalogue(path, make=False)


def open_midnights(
    settings: Settings,
    job_dir: Path | None = None,
    *,
    url: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[float], None] = lambda _: None,
) -> Midnights:
    """The daily checkpoints of a submitted job; its catalogue is made where there is none."""
    folder = JobFolder(job_dir or settings.stream.job_dir, make=False)
    job = ClusterJob(folder, settings.kafka, url=url, timeout_s=settings.daily.savepoint_timeout_s, progress=progress)
    job.record()
    return Midnights(
        catalogue=Catalogue(catalogue_path(settings, job_dir)),
        job=job,
        log=KafkaLog(settings.kafka),
        days=Days(settings.days.zone),
        kept=settings.days.kept,
        lead_ms=1000 * settings.days.lead_s,
        margin_ms=round(1000 * settings.daily.clock_margin_s),
        say=say,
    )
