"""What the update operator of either plan needs to know; travels inside the job graph."""

import dataclasses
import json
from dataclasses import dataclass

from uic.memory import Numbers
from uic.update import Rules


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """Paths are those on the workers.

    `store`: the RocksDB store that the operator writes itself; None where memories and letters leave as outgoing records.
    `direct`: a store in the network to which the batched plan writes memories as well (operators/direct.py).
    `generation`: the one that its memories are of; `zone`, `kept_days`: the days that the store keeps memories of; `numbers`:
    what it keeps them in (uic/small.py).
    `address`: to which control messages for this start of the job are sent; empty where nothing controls it.
    `silent_before_ms`, `quarantine` (a file, uic/quarantine.py): after a rollback, the log time from which on memories are
    published, and what is left out from then on.
    `checkpoints`, `restored_from`: where this run's checkpoints are, and what the run went on from; to name a bad one.
    """

    bundle: str
    job_dir: str
    run: int
    rules: Rules
    max_ahead_ms: int
    store: str | None
    direct: str | None = None
    keep_at: str | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    checkpoints: str | None = None
    restored_from: str | None = None
    generation: int = 0
    zone: str = "UTC"
    kept_days: int = 7
    numbers: Numbers = "float32"
    silent_before_ms: int = 0
    quarantine: str | None = None
    address: str = ""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "UpdateSettings":
        content = json.loads(text)
        return cls(**{**content, "rules": Rules(**content["rules"])})
