"""Which plan a job takes: batched where its jar is built, else event by event."""

from pathlib import Path
from typing import NamedTuple

from jobs.jars import has_job_jars, job_jars
from uic.errors import BadInput

PLANS = ("auto", "batched", "per-event")


class Choice(NamedTuple):
    """The plan taken, the jars to go with it, and what should be said about it (None: nothing)."""

    is_batched: bool
    jars: list[Path]
    note: str | None = None

    @property
    def name(self) -> str:
        return "batched" if self.is_batched else "per-event"


def choose_plan(plan: str, jars: Path, *, keeps: bool = False) -> Choice:
    """The plan for `uic job run`. `keeps`: memories are to be kept at given events, which batches pass over.

    Raises BadInput for an unknown plan or one that cannot keep, EnvironmentProblem where the batched plan's jar is missing.
    """
    if plan not in PLANS:
        raise BadInput(f"plan: expected one of {', '.join(PLANS)}, got {plan}")
    if plan == "batched":
        if keeps:
            raise BadInput(
                "--keep-at keeps memories after single events, the batched plan has them after batches: --plan per-event"
            )
        return Choice(True, job_jars(jars))
    if plan == "per-event" or keeps:
        return Choice(False, [])
    if has_job_jars(jars):
        return Choice(True, job_jars(jars))
    return Choice(False, [], f"the jar of the batched plan is not built ({jars}): events are applied one by one; `make jars`")
