"""What a migration has been asked, what it is about to do, and how far it is: one file, so that one that was killed goes on.

    JOB_DIR/migrations/lock                  held by the one that is at work
    JOB_DIR/migrations/version-17/           the migration to bundle 17
        journal.json     this file: the plan, and which steps are done (jobs/bundles/migrate.py)
        report.json      what came of it
    INTO/                what stays: all that the new pair of job and store has
        uic.yaml         the settings with which every command speaks to it
        bundles/         the bundle
        warm-up/         what the warm-up works in (jobs/warm_up/work.py)
        savepoint/       what the second job starts from
        job/  store/     its job folder, its online store
        retired/         the last savepoint of the job before

The second job reads the same events, and has topics of its own for what it writes, a consumer group of its own and the next
generation. So nothing of the first one is touched before readers go over.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from jobs.journals import Journals
from jobs.settings import SECRETS, Settings
from uic.errors import JobError
from uic.store.place import redis_url

FORMAT = 1
FOLDER = "migrations"
SWITCHED, FINISHED = "switch", "retire"  # steps after which there is no way back, and after which nothing is to do
_OWN_TOPICS = ("snapshots", "late", "dead", "group")
Offsets = Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a migration does, decided before it changes anything.

    words       the arguments it was asked with, to ask again with
    version     the bundle to go over to, `bundle` its copy; `from_version`: the one that the job applies now
    until_ms    the hand-over T of the warm-up; the second job reads the topic from `start_ms` on, in each partition `begins`
    store       the online store that readers read now
    generation  that of the second job; `run_generation`: that of the first, which must not be rolled back meanwhile
    """

    words: tuple[str, ...]
    version: int
    from_version: int
    bundle: str
    history: str
    days: int
    until_ms: int
    start_ms: int
    begins: Offsets
    store: str
    into: str
    generation: int
    run_generation: int
    quarantine: str | None = None

    @property
    def command(self) -> str:
        return shlex.join(("uic", "bundle", "migrate", *self.words))

    @property
    def job_dir(self) -> Path:
        return Path(self.into) / "job"

    @property
    def new_store(self) -> Path:
        """A folder beside the second job's; of a store in Redis, another store in the same one."""
        url = redis_url(self.store)
        if url is None:
            return Path(self.into) / "store"
        return Path(str(url._replace(name=_renamed(url.name, self.from_version, self.version))))

    @property
    def work(self) -> Path:
        return Path(self.into) / "warm-up"

    @property
    def savepoint(self) -> Path:
        return Path(self.into) / "savepoint"

    @property
    def config(self) -> Path:
        return Path(self.into) / "uic.yaml"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A plan, the steps that are done, and what they have found.

    attempts   ids under which the second job was started, noted before
    goal       the end of each partition of the events up to which the sample was verified
    evidence   the last savepoint of the first job; None where it was not running any more
    abandoned  whether it was given up: the second job has ended, nothing was switched
    """

    plan: Plan
    done: tuple[str, ...] = ()
    attempts: tuple[str, ...] = ()
    goal: Offsets = field(default_factory=dict)
    evidence: str | None = None
    abandoned: bool = False
    format: int = FORMAT

    @property
    def key(self) -> int:
        return self.plan.version

    @property
    def is_over(self) -> bool:
        return self.abandoned or FINISHED in self.done

    @property
    def runs_beside(self) -> bool:
        """Whether the second job may have begun, and the first one is not retired yet."""
        return not self.is_over and "start" in self.done

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, place: Path) -> "Journal":
        """What `to_json` wrote; raises JobError, naming the place, for anything else."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content["format"] != FORMAT:
                raise JobError(f"{place}: this release reads format {FORMAT}, got {content['format']}")
            plan = content["plan"]
            plan |= {"words": tuple(plan["words"]), "begins": _offsets(plan["begins"])}
            content |= {name: tuple(content[name]) for name in ("done", "attempts")}
            return cls(**{**content, "plan": Plan(**plan), "goal": _offsets(content["goal"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"{place}: the journal of a migration cannot be read: {error!r}") from error


class Migrations(Journals[Journal]):
    """The migrations of one job. One that is given up is over too."""

    def __init__(self, job_dir: Path) -> None:
        super().__init__(job_dir / FOLDER, "uic bundle migrate")

    def of(self, key: int) -> Path:
        return self.path / f"version-{key}"

    def read(self, text: str, place: Path) -> Journal:
        return Journal.from_json(text, place)


def settings_of(settings: Settings, plan: Plan) -> Settings:
    """The settings of the second job and its store: those of the first, but for what each must have of its own."""
    kafka = settings.kafka
    names = {name: _renamed(getattr(kafka, name), plan.from_version, plan.version) for name in _OWN_TOPICS}
    until, start = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (plan.until_ms, plan.start_ms))
    return settings.model_copy(
        update={
            "kafka": kafka.model_copy(update={**names, "start": start.isoformat()}),
            "stream": settings.stream.model_copy(update={"job_dir": plan.job_dir, "not_before": until}),
            "store": settings.store.model_copy(update={"path": plan.new_store}),
            "daily": settings.daily.model_copy(update={"catalogue": None}),
        }
    )


def to_yaml(settings: Settings) -> str:
    """As a file that `uic --config` takes; secrets stay in the environment."""
    content = settings.model_dump(mode="json", exclude_none=True)
    for section, secret in SECRETS:
        content[section].pop(secret, None)
    return yaml.safe_dump(content, sort_keys=False)


def _renamed(name: str, before: int, version: int) -> str:
    """A name for the next pair; what an earlier migration added gives way.

    >>> _renamed("snapshots", 3, 17), _renamed("snapshots-17", 17, 20)
    ('snapshots-17', 'snapshots-20')
    """
    return f"{name.removesuffix(f'-{before}')}-{version}"


def _offsets(content: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in content.items()}
