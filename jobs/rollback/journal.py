"""What a rollback has been asked, what it is about to do, and how far it is: one file, so that one that was killed goes on.

    JOB_DIR/rollbacks/lock                 held by the one that is at work
    JOB_DIR/rollbacks/generation-000001/   the rollback that begins generation 1
        journal.json       this file: the plan, and which steps are done (jobs/rollback/steps.py)
        quarantine.json    what is left out from the cut on (uic/quarantine.py); the workers read it here
        sample.json        memories of some users as of the cut, to verify with (jobs/rollback/proof.py); goes at the end
        evidence/          the savepoint with which the job was stopped: the polluted state
        report.json        what came of it

The journal appears when all checks have passed, and is replaced as a whole after each step.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from jobs.journals import Journals
from uic.errors import JobError

FORMAT = 1
FOLDER = "rollbacks"
STARTED, FINISHED = "start", "report"  # steps after which the job may be resumed, and the next rollback begun
Offsets = Mapping[int, int]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a rollback does, decided before it changes anything.

    words        the arguments it was asked with, to ask again with
    cut          O_D, in each partition the first offset of the day or later; it begins at `cut_ms` in log time
    offsets      where the job reads on from in each partition: those of the savepoint
    run          the last run of the job that is left behind; `known`: its id
    """

    words: tuple[str, ...]
    day: date
    zone: str
    cut_ms: int
    cut: Offsets
    entry: str
    savepoint: str
    offsets: Offsets
    generation: int
    bundle: str
    stores: tuple[str, ...]
    run: int
    job_id: str

    @property
    def silent(self) -> int:
        """How many events are applied again before the cut, and not published one by one."""
        return sum(offset - self.offsets[each] for each, offset in self.cut.items())

    @property
    def command(self) -> str:
        return shlex.join(("uic", "rollback", *self.words))

    @property
    def name(self) -> str:
        """Who pins the entry, and why those after it are tainted."""
        return f"rollback to {self.day}, generation {self.generation}"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """A plan, the steps that are done, and what they have found.

    evidence   the savepoint of the job that was stopped; None where it was not running any more
    goal       the end of each partition of the events when it had stopped: there the job has caught up
    published  the end of each partition of the snapshots: at the stop, later at the fresh savepoint
    letters    the end of each partition of the dead letters and late events when the job had stopped
    attempts   ids under which the job was started, noted before
    fresh      the daily checkpoint that was taken in the end
    """

    plan: Plan
    done: tuple[str, ...] = ()
    evidence: str | None = None
    goal: Offsets = field(default_factory=dict)
    published: Offsets = field(default_factory=dict)
    letters: Mapping[str, Offsets] = field(default_factory=dict)
    attempts: tuple[str, ...] = ()
    fresh: str | None = None
    format: int = FORMAT

    @property
    def key(self) -> int:
        return self.plan.generation

    @property
    def is_over(self) -> bool:
        return FINISHED in self.done

    @property
    def replayed(self) -> int:
        """How many events are applied again from the cut on."""
        return sum(max(0, end - self.plan.cut.get(each, end)) for each, end in self.goal.items())

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        content["plan"]["day"] = self.plan.day.isoformat()
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, place: Path) -> "Journal":
        """What `to_json` wrote; raises JobError, naming the place, for anything else."""
        try:
            content: dict[str, Any] = json.loads(text)
            if content["format"] != FORMAT:
                raise JobError(f"{place}: this release reads format {FORMAT}, got {content['format']}")
            plan = content["plan"]
            plan |= {name: _offsets(plan[name]) for name in ("cut", "offsets")}
            plan |= {"day": date.fromisoformat(plan["day"]), "words": tuple(plan["words"]), "stores": tuple(plan["stores"])}
            content |= {name: _offsets(content[name]) for name in ("goal", "published")}
            content |= {name: tuple(content[name]) for name in ("done", "attempts")}
            letters = {kind: _offsets(offsets) for kind, offsets in content["letters"].items()}
            return cls(**{**content, "plan": Plan(**plan), "letters": letters})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise JobError(f"{place}: the journal of a rollback cannot be read: {error!r}") from error


class Folder(Journals[Journal]):
    """The rollbacks of one job."""

    def __init__(self, job_dir: Path) -> None:
        super().__init__(job_dir / FOLDER, "uic rollback")

    def of(self, key: int) -> Path:
        return self.path / f"generation-{key:06d}"

    def read(self, text: str, place: Path) -> Journal:
        return Journal.from_json(text, place)


def why_not_to_start(job_dir: Path) -> str | None:
    """Why the job must not be started by hand: a rollback has stopped it, and would find it running with the old memories."""
    journal = Folder(job_dir).unfinished()
    if journal is None or STARTED in journal.done:
        return None
    plan = journal.plan
    return f"{job_dir}: a rollback to {plan.day} has begun and will start the job: `{plan.command}` goes on with it"


def _offsets(content: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in content.items()}
