"""`uic store follow`, without its command line: the snapshots topic applied to the shards that this process writes.

How far each shard is stands in the shard itself, in the same atomic write as the memories: after kill -9 it goes on exactly
there. Kafka's committed offsets are not used.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.store.begin import check_layouts, warn_of_missed_deletions, where_to_begin
from jobs.store.topic import SnapshotsTopic
from operators.metrics import FollowMetrics
from uic.codec import NO_TIME, Codec
from uic.errors import BadInput, EnvironmentProblem, StoreError, StoreUnavailable
from uic.letters import LetterBox
from uic.store.apply import Applied, Applier, FollowingStore, Refusal, Snapshot
from uic.store.contract import Source
from uic.store.writing import Span

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

_WAIT_S = 0.1
_TICK_S = 0.5
_SAME_TOPIC_EVERY_S = 10.0
_AT_THE_END_EVERY_S = 600.0
_LETTERS_WITH_PAYLOAD = 10_000
_REFUSALS_SAID = 20
_SWEPT_AT_ONCE = 500

Say = Callable[[str], None]


@dataclass
class Progress:
    """What a follower has done since it began, and how far it is behind."""

    written: int = 0
    stale: int = 0
    fenced: int = 0
    deleted: int = 0
    refused: int = 0
    lag: dict[int, int] = field(default_factory=dict)
    waits_for: str | None = None

    @property
    def applied(self) -> int:
        return self.written + self.stale + self.fenced + self.deleted + self.refused


class Letters:
    """Keeps what was refused, beside the store."""

    def __init__(self, path: Path, topic: str) -> None:
        self.path = path
        self._topic = topic
        self._box = LetterBox(path)
        self._kept = 0

    def __call__(self, refusals: Sequence[Refusal]) -> None:
        for snapshot, reason, detail in refusals:
            self._kept += 1
            # Kafka has the bytes too: where everything is wrong, the disk need not be filled with them.
            payload = snapshot.value or b"" if self._kept <= _LETTERS_WITH_PAYLOAD else b""
            self._box.put(
                "dead",
                reason=reason,
                detail=detail,
                source=f"{self._topic}-{snapshot.partition}",
                offset=snapshot.offset,
                payload=payload,
                user_id=None if snapshot.key is None else snapshot.key.decode("utf-8", "backslashreplace"),
            )

    def close(self) -> None:
        self._box.close()


class Follower:
    """Applies a topic to stores until it is told to stop, or with `until_end`: until what was there at its start is applied."""

    def __init__(
        self,
        topic: SnapshotsTopic,
        stores: Sequence[FollowingStore],
        codec: Codec,
        *,
        letters: Letters,
        metrics: FollowMetrics,
        until_end: bool = False,
        say: Say,
        show: Callable[[Progress], None],
    ) -> None:
        self._topic = topic
        self._codec = codec
        self._stores = stores
        self._appliers = [Applier(store, codec, shard=store.shard, keep=letters) for store in stores]
        self._metrics = metrics
        self._until_end = until_end
        self._say = say
        self._show = show
        self._is_stopping = False
        self.progress = Progress()
        self._source: Source | None = None
        self._asked: Callable[[], Source | None] | None = None
        self._must_begin = False
        self._offsets: dict[int, int] = {}
        self._goals: dict[int, int] = {}
        self._removed = 0
        self._applier_of: dict[int, Applier] = {}
        self._store_of: dict[int, FollowingStore] = {}
        self._swept: dict[FollowingStore, Span] = {}

    def stop(self) -> None:
        """Ends `run` after the batch in hand; may be called from a signal handler."""
        self._is_stopping = True

    def run(self) -> bool:
        """Follow; returns whether everything that was present at the start is applied."""
        self._begin(is_first=True)
        next_tick_s = next_look_s = time.monotonic() + _TICK_S
        next_note_s = time.monotonic() + _AT_THE_END_EVERY_S
        while not self._is_stopping and not (self._until_end and self._is_at_goal()):
            read = self._topic.read(_WAIT_S)
            if read.snapshots:
                self._apply(read.snapshots)
            self._note_ends(read.ends)
            now_s = time.monotonic()
            if read.errors:
                self._heed(read.errors)
            if now_s < next_tick_s:
                continue
            next_tick_s = now_s + _TICK_S
            self._measure()
            self._say_removed()
            self._sweep()
            if self.progress.waits_for is not None or now_s >= next_look_s:
                next_look_s = now_s + _SAME_TOPIC_EVERY_S
                self._look()
            if now_s >= next_note_s:
                next_note_s = now_s + _AT_THE_END_EVERY_S
                self._note_that_we_are_here()
        self._note_that_we_are_here()
        self._measure()
        self._say_removed()
        return self._is_at_goal()

    def _begin(self, *, is_first: bool = False) -> None:
        """Find the topic, compare it with what the stores know of theirs, and start reading where they are."""
        source = self._topic.source()
        held = [[p for p in range(source.partitions) if store.shard is None or store.shard.holds(p)] for store in self._stores]
        reach = self._topic.reach([partition for partitions in held for partition in partitions])
        if is_first:
            check_layouts(self._topic.newest(reach), self._codec, source.topic)
        kept_ms = self._topic.deletions_kept_ms()
        self._offsets = {}
        for store, applier, partitions in zip(self._stores, self._appliers, held, strict=True):
            self._offsets |= where_to_begin(store, source, {each: reach[each] for each in partitions}, self._say)
            if kept_ms is not None:
                warn_of_missed_deletions(store, source, reach, kept_ms, time.time_ns() // 1_000_000, self._say)
            self._applier_of |= dict.fromkeys(partitions, applier)
            self._store_of |= dict.fromkeys(partitions, store)
        self._goals = {partition: at.end for partition, at in reach.items()}
        self._source = source
        self._topic.start(self._offsets)

    def _apply(self, snapshots: Sequence[Snapshot]) -> None:
        parts: dict[Applier, list[Snapshot]] = {}
        if len(self._appliers) == 1:
            parts[self._appliers[0]] = list(snapshots)
        else:
            for snapshot in snapshots:
                parts.setdefault(self._applier_of[snapshot.partition], []).append(snapshot)
        for applier, part in parts.items():
            try:
                applied = self._apply_part(applier, part)
                if applied is None:
                    return
            except StoreError:
                raise
            except Exception as error:  # rocksdict raises plain Exception for everything
                raise StoreError(
                    f"the store cannot be written: {error}. What was applied stays; run the command again"
                ) from error
            now_ms = time.time_ns() / 1e6
            self._metrics.observe(
                written=applied.written,
                stale=applied.stale + applied.fenced,
                deleted=applied.deleted,
                refused=len(applied.refused),
                ages_s=[(now_ms - log_time_ms) / 1000 for log_time_ms in applied.log_times_ms if log_time_ms != NO_TIME],
            )
            progress = self.progress
            progress.written += applied.written
            progress.stale += applied.stale
            progress.fenced += applied.fenced
            progress.deleted += applied.deleted
            progress.refused += len(applied.refused)
            self._say_refused(applied.refused)
        for snapshot in snapshots:
            self._removed += max(0, snapshot.offset - self._offsets.get(snapshot.partition, snapshot.offset))
            self._offsets[snapshot.partition] = snapshot.offset + 1
        self._is_back()

    def _apply_part(self, applier: Applier, part: list[Snapshot]) -> Applied | None:
        """Apply, however long a store in the network is away; None where we are stopped meanwhile."""
        has_waited = False
        while not self._is_stopping:
            try:
                applied = applier.apply(part, now_ms=time.time_ns() // 1_000_000)
            except StoreUnavailable as error:
                if not has_waited:
                    self._say(f"waiting for the store: {error}")
                has_waited, self.progress.waits_for = True, str(error)
                self._show(self.progress)
                time.sleep(_WAIT_S)
                continue
            if has_waited:
                self._say("the store answers")
                self.progress.waits_for = None
            return applied
        return None

    def _say_refused(self, refused: Sequence[Refusal]) -> None:
        before = self.progress.refused - len(refused)
        for refusal in refused[: max(0, _REFUSALS_SAID - before)]:
            at = f"{self._topic.name}-{refusal.snapshot.partition} at {refusal.snapshot.offset}"
            self._say(f"refused {at}: {refusal.detail}")
        if before < _REFUSALS_SAID <= self.progress.refused:
            self._say("what else is refused is counted, and kept in the letters")

    def _say_removed(self) -> None:
        """Once what there was is applied: what of it had gone before it could be read, and what that means for past days."""
        if self._removed == 0 or not self._is_at_goal():
            return
        self._say(
            f"{self._removed:,} snapshots of topic {self._topic.name} were gone before this store could read them: Kafka keeps "
            "the last of each user. What is read now is right; as of days that have begun already, a user may have no memory "
            "here, or one too old. A store that has followed all along has them: `uic store copy` makes a new one from it"
        )
        self._removed = 0

    def _note_ends(self, ends: Mapping[int, int]) -> None:
        # Behind the last message there may be none any more, and yet the end is further.
        for partition, end in ends.items():
            self._offsets[partition] = max(self._offsets.get(partition, 0), end)

    def _is_at_goal(self) -> bool:
        return all(self._offsets.get(partition, 0) >= goal for partition, goal in self._goals.items())

    def _measure(self) -> None:
        for partition, offset in self._offsets.items():
            end = self._topic.known_end(partition)
            lag = max(0, max(end, self._goals.get(partition, 0)) - offset)
            self.progress.lag[partition] = lag
            self._metrics.lag(partition, lag)
        self._show(self.progress)

    def _sweep(self) -> None:
        """Once a day, a few users at a time, copies go that nobody reads any more and whose users do not come back."""
        with suppress(StoreUnavailable):  # the next batch waits for it
            for store in self._stores:
                if store.span is not None and store.span != self._swept.get(store) and store.sweep(_SWEPT_AT_ONCE):
                    self._swept[store] = store.span

    def _heed(self, errors: Sequence["KafkaError"]) -> None:
        from confluent_kafka import KafkaError

        gone = (KafkaError._AUTO_OFFSET_RESET, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID)
        away = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL)
        heard = (KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._UNKNOWN_PARTITION)  # comes with one of those
        for error in errors:
            self._must_begin |= error.code() in gone
            if error.code() in (*gone, *away):
                self._waits(error.str())
            elif error.code() not in heard:
                self._say(f"Kafka: {error.str()}")

    def _waits(self, reason: str) -> None:
        if self.progress.waits_for is None:
            self._asked = None
            self._say(f"waiting for topic {self._topic.name}: {reason}")
        self.progress.waits_for = reason

    def _is_back(self) -> None:
        if self.progress.waits_for is not None:
            self.progress.waits_for = None
            self._say(f"topic {self._topic.name} is there again")

    def _look(self) -> None:
        """Whether the topic is still the one that is read: made anew or cut off, it is begun with again."""
        try:
            # Asked now and looked at the next time, perhaps: no snapshot waits for the answer.
            self._asked = self._asked or self._topic.ask()
            source = self._asked()
            if source is None:
                return
            self._asked = None
            if source != self._source or self._must_begin:
                self._topic.reopen()
                self._begin()
                self._must_begin = False
        except (EnvironmentProblem, BadInput, StoreUnavailable) as error:
            self._asked = None
            self._waits(str(error))
        else:
            self._is_back()

    def _note_that_we_are_here(self) -> None:
        """Offsets are written with memories only; where none come, the time of the last write would look like an absence."""
        for store in self._stores:
            mine = {partition: offset for partition, offset in self._offsets.items() if self._store_of[partition] is store}
            with suppress(StoreUnavailable):
                store.commit(store.writing(), mine, now_ms=time.time_ns() // 1_000_000)
