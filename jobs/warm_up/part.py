"""Pass 2: the events of one partition's users, folded into a file of memories."""

import time
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.warm_up import work
from jobs.warm_up.divide import regions_of
from jobs.warm_up.inputs import Task
from jobs.warm_up.read import MOST_LETTERS, Left
from jobs.warm_up.work import Done, Plan, WorkFolder
from uic.event import BehaviourEvent, to_json
from uic.letters import Letter
from uic.update import Updater
from uic.warm.fold import fold_history
from uic.warm.history import NO_ID, History, Int64, in_order
from uic.warm.judge import APPLIED, DETAILS, Verdicts, judge
from uic.warm.packed import Writer


def fold_partition(
    folder: WorkFolder, plan: Plan, tasks: Sequence[Task], partition: int, updater: Updater, behaviours: list[str]
) -> None:
    """Read a partition from what pass 1 left, judge and fold it, and write the memories."""
    marks = [time.perf_counter()]
    cpu = time.process_time()
    pieces = list(regions_of(folder, len(tasks), partition, plan.partitions))
    table = pa.concat_tables([piece for _, piece in pieces])
    task_E = np.repeat([number for number, _ in pieces], [piece.num_rows for _, piece in pieces])
    place_E = table.column("place").to_numpy()
    history = _history(table, behaviours)
    del table, pieces
    marks.append(time.perf_counter())
    verdicts = judge(history, ring_size=updater.codec.layout.ring_size, idle_after_ms=updater.rules.idle_after_ms)
    left = Left()
    _leave_duplicates(history, verdicts, tasks, task_E, place_E, left)
    left.counts["applied"] = len(history.times_E) - left.counts["duplicate"]
    left.counts["users"] = len(history.users)
    marks.append(time.perf_counter())

    def write(file: BinaryIO) -> None:
        writer = Writer(file, updater.codec)
        for memories in fold_history(updater, history, verdicts):
            writer.write(memories)
        writer.end()

    path = folder.memories(partition)
    size = folder.finish(path, write)
    marks.append(time.perf_counter())
    names = ("gather", "judge", "fold")
    seconds = dict(zip(names, np.diff(marks).tolist(), strict=True)) | {"fold cpu": time.process_time() - cpu}
    work.declare(path, Done(bytes=size, counts=left.counts, letters=left.letters, seconds=seconds))


def _history(table: pa.Table, behaviours: list[str]) -> History:
    users = pc.dictionary_encode(table.column("user").combine_chunks()) if table.num_rows else pa.array([]).dictionary_encode()
    ids = table.column("event_id")
    if ids.null_count == table.num_rows:
        names: list[str] = []
        ids_E: Int64 = np.full(table.num_rows, NO_ID)
    else:
        coded = pc.dictionary_encode(ids.combine_chunks())
        names, ids_E = coded.dictionary.to_pylist(), pc.fill_null(coded.indices, NO_ID).to_numpy().astype(np.int64)
    return in_order(
        users=users.dictionary.to_pylist(),
        behaviours=behaviours,
        event_ids=names,
        user_E=users.indices.to_numpy().astype(np.int64),
        times_E=table.column("time_ms").to_numpy(),
        items_E=table.column("item_id").to_numpy(),
        categories_E=table.column("category_id").to_numpy(),
        behaviours_E=table.column("behaviour").to_numpy(),
        ids_E=ids_E,
    )


def _leave_duplicates(
    history: History, verdicts: Verdicts, tasks: Sequence[Task], task_E: Int64, place_E: Int64, left: Left
) -> None:
    """Count the duplicates and keep letters of some; their bytes are written anew from the columns."""
    found = np.flatnonzero(verdicts.outcomes_E != APPLIED)
    user_E = history.user_E
    for at in found[:MOST_LETTERS].tolist():
        event_id = int(history.ids_E[at])
        event = BehaviourEvent(
            user_id=history.users[int(user_E[at])],
            item_id=int(history.items_E[at]),
            category_id=int(history.categories_E[at]),
            behaviour=history.behaviours[int(history.behaviours_E[at])],
            time_ms=int(history.times_E[at]),
            event_id=None if event_id == NO_ID else history.event_ids[event_id],
        )
        place = int(history.places_E[at])
        source, offset = tasks[int(task_E[place])].input.path, int(place_E[place])
        detail = DETAILS[int(verdicts.outcomes_E[at])]
        left.leave(Letter(source, offset, "duplicate", "duplicate", detail, event.user_id, to_json(event)))
    left.counts["duplicate"] = len(found)
