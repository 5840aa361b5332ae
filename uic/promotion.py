"""May one bundle follow another in a running job? Pure rules over what the two say of themselves, and how far apart they are.

Memories pass from a bundle to its successor as they are, so the successor must mean the same by every number in them: the same
layout, the same lineage (trained on from its parent), and rows of the vocabulary that only grew at their end. What the step
never sees is not asked here: head features belong to the scorer, which is deployed by itself.
"""

from dataclasses import dataclass

from uic.bundle import Bundle
from uic.vocabulary import Vocabulary

_HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What of a bundle decides whether it may follow another."""

    version: int
    layout: str
    lineage: str
    behaviours: frozenset[str]
    items: Vocabulary
    categories: Vocabulary

    @classmethod
    def of(cls, bundle: Bundle) -> "Standing":
        manifest = bundle.manifest
        return cls(
            version=manifest.version,
            layout=manifest.layout,
            lineage=manifest.lineage,
            behaviours=bundle.accepted,
            items=bundle.items,
            categories=bundle.categories,
        )


def refusals(active: Standing, new: Standing) -> list[str]:
    """Why `new` may not follow `active` in a running job, each reason a sentence; none: it may."""
    reasons = []
    if new.layout != active.layout:
        reasons.append(f"it makes memories of layout {new.layout}, the job's are of layout {active.layout}: no byte would fit.")
    if new.lineage != active.lineage:
        reasons.append(
            f"it is of lineage {new.lineage}, the job's memories are of {active.lineage}: the numbers of another training mean "
            "other things."
        )
    if needs_migration(active, new):
        return reasons
    if new.version < active.version:
        reasons.append(
            f"version {new.version} is older than the active {active.version}: to go back, stop the job and resume it with "
            "the older bundle."
        )
    for name in ("items", "categories"):
        old: Vocabulary = getattr(active, name)
        if not getattr(new, name).begins_with(old):
            reasons.append(
                f"its {name} do not begin with the {len(old)} of the active bundle, in their order: rows would change their "
                "meaning. Train it on from the active bundle."
            )
    if gone := active.behaviours - new.behaviours:
        reasons.append(
            f"it does not accept the behaviour {', '.join(sorted(gone))} any more: events that are applied today would become "
            "dead letters."
        )
    return reasons


def needs_migration(active: Standing, new: Standing) -> bool:
    """Whether the two have no memory space in common, so that no job can pass from one to the other."""
    return (active.layout, active.lineage) != (new.layout, new.lineage)


def migration_plan(active: int, new: int) -> list[str]:
    """The way from one memory space to another, with the old one serving until the switch; a line a step."""
    return [
        f"1. warm-up: bundle {new} folds the history into memories of its own, into a second store and into a savepoint",
        f"2. a second job starts from that savepoint with bundle {new}, and publishes to topics and a store of its own",
        "3. verification: memories and scores of the second job against an offline fold of a sample of users",
        f"4. switch of generation: readers go over to the second store; bundle {active} has served until here",
        f"5. the job of bundle {active} is stopped with a savepoint, and the bundle is retired",
    ]


def skew_h(writer_cut_off_ms: int, reader_cut_off_ms: int) -> float:
    """Hours by which the training of the bundle that wrote a memory ends after that of the one that reads it.

    >>> skew_h(7_200_000, 3_600_000)
    1.0
    """
    return (writer_cut_off_ms - reader_cut_off_ms) / _HOUR_MS


def is_too_far(skew_h: float, max_skew_h: float) -> bool:
    """Whether a reader and a writer are too far apart, whichever of the two is ahead.

    >>> is_too_far(-25.0, 24.0), is_too_far(24.0, 24.0)
    (True, False)
    """
    return abs(skew_h) > max_skew_h
