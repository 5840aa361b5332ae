"""What both plans open in a worker, and what they do alike: bundle, step, publisher, counts, and naming what went wrong."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from operators import condemned, failure, progress
from operators.publish import Direct, Publisher, Records, read_keep_at
from operators.settings import UpdateSettings
from uic.bundle import Bundle
from uic.errors import CorruptMemory
from uic.letters import LetterBox
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.update import Outcome


class Worker:
    """An opened update operator, without Flink."""

    def __init__(self, settings: UpdateSettings) -> None:
        self._settings = settings
        self._job_dir = Path(settings.job_dir)
        self.checkpoint = restored_checkpoint(settings)
        self.writes_store = settings.store is not None
        try:
            bundle = Bundle.open(Path(settings.bundle))
            self.updater = bundle.updater(OnnxStep(bundle), settings.rules)
            self.accepted = bundle.accepted
            self.max_ahead_ms = settings.max_ahead_ms
            self.publisher = self._open_publisher(bundle)
        except Exception as error:
            self.report(error)
            raise
        self._outcomes: Counter[str] = Counter()
        self._pace = progress.Pace()

    def _open_publisher(self, bundle: Bundle) -> Publisher:
        settings = self._settings
        if settings.store is None:
            return Records()
        keep_at = {} if settings.keep_at is None else read_keep_at(Path(settings.keep_at))
        box = LetterBox(self._job_dir / "letters.sqlite")
        return Direct(RocksStore.create_or_open(Path(settings.store), bundle.identity), box, keep_at)

    def count(self, outcomes: Mapping[str, int]) -> None:
        """Note what became of some events; the embedded launcher reads it from a file."""
        self._outcomes.update(outcomes)
        if self._settings.store is not None and self._pace.is_due():
            counts = {outcome.value: self._outcomes[outcome.value] for outcome in Outcome}
            progress.write(self._job_dir / progress.UPDATE_FILE, progress.UpdateProgress(run=self._settings.run, **counts))

    def report(self, error: BaseException) -> None:
        """Leave the reason where launcher and `uic job` look; a memory that cannot be used condemns its checkpoint."""
        failure.report(self._job_dir, error)
        if isinstance(error, CorruptMemory) and self.checkpoint is not None:
            with suppress(OSError):
                condemned.condemn(self._job_dir, self.checkpoint, str(error))

    def explain(self, error: CorruptMemory) -> CorruptMemory:
        """The same error, with the checkpoint that the memory came from."""
        origin = "the state of this run" if self.checkpoint is None else f"a state restored from {self.checkpoint}"
        return type(error)(f"{error}; it is in {origin}. `uic job resume` goes on from an older checkpoint")


def restored_checkpoint(settings: UpdateSettings) -> str | None:
    """What an operator that opens now was restored from: this run's newest checkpoint, else what the run went on from.

    While an operator of the job is not open yet, no newer checkpoint can complete.
    """
    if settings.checkpoints is not None:
        done = Path(settings.checkpoints).glob("*/chk-*/_metadata")
        newest = max(done, key=lambda path: int(path.parent.name.removeprefix("chk-")), default=None)
        if newest is not None:
            return str(newest.parent)
    return settings.restored_from
