"""Unlimited synthetic behaviour whose outcome is known beforehand: for load and faults only, never for a claim of quality.

Every user is a mixture of a few interests (categories) that change slowly with time; items are Zipf popular within a category.
Nothing is remembered of a user: what keeps the outcome certain is where times lie. Per record, one of five kinds is drawn:

    fresh      applied     time = start_ms + k * step_ms, k = how many were applied before in the whole stream
    disorder   applied     a user seen a moment ago, at a time before that, within lateness_ms; 1 ms off the grid
    duplicate  duplicate   one of the last applied again: the same bytes, event_id, or time, item and behaviour
    too late   late        a user seen a moment ago, at a time before that by more than lateness_ms; 2 ms off the grid
    poison     dead        an event with one thing wrong (poison.py), each kind as often

So no two applied events share a time, and no event is a duplicate or late by accident. "A moment ago" is within as many applied
events of the whole stream as a user's fingerprint ring has places. The same spec makes the same bytes, and fewer events are a
prefix of more.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.errors import BadInput
from uic.synthetic.block import DISORDER, DUPLICATE, FRESH, ID, ITEM, TOO_LATE, USER, Block, Ids, written
from uic.synthetic.population import Population
from uic.synthetic.spec import REACH, SyntheticSpec

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]

_DRAWS = 11


class _Recent(NamedTuple):
    """The last applied events, oldest first: their rows, and which of them were fresh."""

    rows_RN: Int64
    is_fresh_N: Bool


def generate(spec: SyntheticSpec, ids: Ids | None = None) -> Iterator[Block]:
    """The stream of `spec`, block by block; ids of items and categories count from 1 unless given."""
    ids = ids or Ids(np.arange(1, spec.items + 1), np.arange(1, spec.categories + 1))
    if (found := (len(ids.items), len(ids.categories))) != (spec.items, spec.categories):
        raise BadInput(f"synthetic events: expected ids of {spec.items} items and {spec.categories} categories, got {found}")
    population = Population(spec)
    recent = _Recent(np.empty((6, 0), np.int64), np.empty(0, np.bool_))
    first = applied = 0
    while spec.events is None or first < spec.events:
        draw_DN = np.random.default_rng([spec.seed, first]).random((_DRAWS, spec.block))
        kind_N, rows_RN, recent, applied = _draw_block(spec, population, draw_DN, recent, first, applied)
        wanted = spec.block if spec.events is None else min(spec.block, spec.events - first)
        yield written(spec, ids, kind_N[:wanted], rows_RN[:, :wanted], draw_DN[-1])
        first += spec.block


def _draw_block(
    spec: SyntheticSpec, population: Population, draw_DN: Float64, recent: _Recent, first: int, applied: int
) -> tuple[Int64, Int64, _Recent, int]:
    """Kinds [N] and rows [6, N] of the records from number `first` on; then the recent ones and the number applied by now."""
    kind_N = _kinds(spec, draw_DN[0])
    if first == 0:
        kind_N[0] = FRESH  # what follows needs something that it follows
    is_applied_N = kind_N <= DISORDER
    # The table holds the recent events and those applied here. A place in it is an applied event's own, else the last one's.
    count = len(recent.is_fresh_N)
    place_N = count - 1 + np.cumsum(is_applied_N)
    slot_N = place_N + (applied - count)

    users_N = population.users(draw_DN[1], draw_DN[2])
    table_users = np.concatenate([recent.rows_RN[USER], users_N[is_applied_N]])
    parent_N = _parents(np.concatenate([recent.is_fresh_N, kind_N[is_applied_N] == FRESH]), place_N, kind_N, draw_DN[3])
    # Where all the recent ones were out of order there is nobody to be behind: such an event is a fresh one after all.
    kind_N[(kind_N == DISORDER) & (place_N - parent_N >= REACH)] = FRESH
    is_behind_N = (kind_N == DISORDER) | (kind_N == TOO_LATE)
    users_N[is_behind_N] = table_users[parent_N[is_behind_N]]

    numbers_N = np.arange(first, first + len(kind_N))
    items_N, categories_N = population.items(users_N, spec.start_ms + slot_N * spec.step_ms, draw_DN[5], draw_DN[6])
    behaviours_N = (draw_DN[7] * len(spec.behaviours)).astype(np.int64)
    time_N = _times(spec, kind_N, slot_N, parent_N + (applied - count), draw_DN[4])
    ids_N = np.where(draw_DN[8] < spec.event_ids, numbers_N, -1)
    rows_RN = np.stack([users_N, items_N, categories_N, behaviours_N, time_N, ids_N])

    table_RN = np.concatenate([recent.rows_RN, rows_RN[:, is_applied_N]], axis=1)
    of = kind_N == DUPLICATE
    back = (draw_DN[3][of] * np.minimum(place_N[of] + 1, min(spec.ring, REACH))).astype(np.int64)
    rows_RN[:, of] = _again(table_RN[:, place_N[of] - back], draw_DN[9][of], numbers_N[of], spec.items)
    is_fresh = np.concatenate([recent.is_fresh_N, kind_N[is_applied_N] == FRESH])
    return kind_N, rows_RN, _Recent(table_RN[:, -REACH:], is_fresh[-REACH:]), applied + int(is_applied_N.sum())


def _kinds(spec: SyntheticSpec, draw_N: Float64) -> Int64:
    fresh = 1 - spec.disorder - spec.duplicates - spec.too_late - spec.poison
    shares = np.cumsum([fresh, spec.disorder, spec.duplicates, spec.too_late])
    if spec.poison == 0:
        shares[-1] = 1.0  # the sum alone may end just below it
    kind_N: Int64 = np.searchsorted(shares, draw_N, side="right")
    return kind_N


def _parents(is_fresh: Bool, place_N: Int64, kind_N: Int64, draw_N: Float64) -> Int64:
    """For each record the place of a fresh event before it, nearly always one of the last REACH - 1 applied."""
    fresh_before = np.maximum.accumulate(np.where(is_fresh, np.arange(len(is_fresh)), np.argmax(is_fresh)))
    newest_N = place_N - (kind_N == DISORDER)
    back_N = (draw_N * np.minimum(newest_N + 1, REACH - 1)).astype(np.int64)
    parent_N: Int64 = fresh_before[newest_N - back_N]
    return parent_N


def _times(spec: SyntheticSpec, kind_N: Int64, slot_N: Int64, parent_slot_N: Int64, draw_N: Float64) -> Int64:
    """Fresh events on a grid; disorder and lateness each beside it, so that no two of different kinds are the same."""
    time_N = spec.start_ms + slot_N * spec.step_ms
    of = kind_N == DISORDER
    time_N[of] = spec.start_ms + _displaced(spec, slot_N[of]) * spec.step_ms - 1
    of = kind_N == TOO_LATE
    steps = -(-spec.lateness_ms // spec.step_ms)
    back = steps + (draw_N[of] * (steps + 1)).astype(np.int64)
    time_N[of] = spec.start_ms + (parent_slot_N[of] - back) * spec.step_ms - 2
    return time_N


def _displaced(spec: SyntheticSpec, slot_N: Int64) -> Int64:
    """Earlier slots, no two of them the same: at least REACH before, and within the lateness."""
    size = spec.disorder_slots
    stride = max(1, round(size * 0.618))
    while math.gcd(stride, size) != 1:
        stride += 1
    whole, rest = np.divmod(slot_N, size)
    moved: Int64 = whole * size - REACH - rest * stride % size
    return moved


def _again(rows_RN: Int64, draw_N: Float64, numbers_N: Int64, items: int) -> Int64:
    """The same events once more: a third as they were, a third known by one fingerprint alone, a third without an id."""
    rows_RN = rows_RN.copy()
    by_one = (draw_N >= 1 / 3) & (draw_N < 2 / 3)
    has_id = rows_RN[ID] >= 0
    rows_RN[ITEM] = np.where(by_one & has_id, (rows_RN[ITEM] + 1) % items, rows_RN[ITEM])
    rows_RN[ID] = np.where(by_one & ~has_id, numbers_N, np.where(draw_N >= 2 / 3, -1, rows_RN[ID]))
    return rows_RN
