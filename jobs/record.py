"""What job.json in a job's folder says."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
_ROLLBACK = ("generation", "silent_before_ms", "quarantine", "first_run", "begins_with")


@dataclass(frozen=True, kw_only=True)
class ClusterRecord:
    """Where a submitted job runs and what it reads. `plan`: batched or per-event. `wheel`: our code on the workers.

    `partitions` is the topic's count at the first submit: with another one, users would change their partition. The last three
    were told on the command line: a rollback starts the job again as it was.
    """

    url: str
    job_id: str
    name: str
    plan: str
    parallelism: int
    bootstrap: str
    topic: str
    partitions: int
    wheel: str
    checkpoint_interval_s: float | None = None
    accept_late: bool = False
    flink: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What job.json says. The state in the checkpoints fits this layout and lineage, and was published to this store.

    `cluster` is None where the job runs in this machine's embedded Flink.

    A rollback begins a `generation` with the savepoint `begins_with`, of which `first_run` is the first run: what earlier ones
    left is not gone on from. `silent_before_ms`, `quarantine`: as in operators/settings.py.
    """

    run: int
    layout: str
    lineage: str
    bundle_version: int
    bundle: str
    events: str
    store: str
    backend: str
    launcher_pid: int = 0
    jvm_pid: int = 0
    cluster: ClusterRecord | None = None
    generation: int = 0
    silent_before_ms: int = 0
    quarantine: str | None = None
    first_run: int = 1
    begins_with: str | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        for name in ("cluster", *_ROLLBACK):
            if getattr(self, name) == getattr(JobRecord, name):
                del content[name]  # so that a release without clusters, or without rollbacks, still reads it
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "JobRecord":
        """The record in `content`; raises TypeError for fields missing or unknown."""
        cluster = content.get("cluster")
        return cls(**{**content, "cluster": None if cluster is None else ClusterRecord(**cluster)})
