"""What job.json in a job's folder says."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ClusterRecord:
    """Where a submitted job runs and what it reads. `plan`: batched or per-event. `wheel`: our code on the workers.

    `partitions` is the topic's count at the first submit: with another one, users would change their partition.
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


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What job.json says. The state in the checkpoints fits this layout and lineage, and was published to this store.

    `cluster` is None where the job runs in this machine's embedded Flink.
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
    format: int = FORMAT

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        if self.cluster is None:
            del content["cluster"]  # so that a release without clusters still reads it
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "JobRecord":
        """The record in `content`; raises TypeError for fields missing or unknown."""
        cluster = content.get("cluster")
        return cls(**{**content, "cluster": None if cluster is None else ClusterRecord(**cluster)})
