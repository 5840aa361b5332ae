"""The settings of the streaming job; filled from uic.yaml and the command line."""

from dataclasses import dataclass, field
from pathlib import Path

from jobs.jars import JOB_JARS
from uic.memory import Numbers


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """All that a run of the streaming job can be told. `flink` are Flink's own keys, passed through."""

    events: Path
    bundle: Path
    store: Path
    job_dir: Path
    backend: str = "hashmap"
    checkpoint_interval_s: float = 3.0
    lateness_s: int = 86_400
    accept_late: bool = False
    max_ahead_s: int = 86_400
    watch: bool = False
    keep_at: Path | None = None
    plan: str = "auto"
    jars: Path = JOB_JARS
    batch: int = 256
    batch_wait_ms: int = 5
    idle_after_s: int | None = None
    zone: str = "UTC"
    kept_days: int = 7
    numbers: Numbers = "float32"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    wait_s: float = 30.0
    flink: dict[str, str] = field(default_factory=dict)
