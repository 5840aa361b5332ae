"""The side of Feast in its own environment: a repository whose feature is a memory, filled from a file.

    python feast_side.py FOLDER REDIS_HOST:PORT MEMORIES.npz        then: feast -c FOLDER serve

The memory is text, its bytes in base64: Feast's REST server answers 500 to bytes that are no UTF-8. Run by
benchmarks/rtp/against_feast.py; nothing of this project can be imported here.
"""

import base64
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import String

_SETTINGS = """project: rtp
provider: local
registry: {folder}/registry.db
entity_key_serialization_version: 3
online_store:
  type: redis
  connection_string: "{redis}"
"""


def main(folder: Path, redis: str, memories: Path) -> None:
    (folder / "feature_store.yaml").write_text(_SETTINGS.format(folder=folder, redis=redis))
    with np.load(memories) as arrays:
        users, blobs = arrays["users"].tolist(), [base64.b64encode(row).decode() for row in arrays["blobs"]]
    frame = pd.DataFrame({"user": users, "memory": blobs, "at": datetime.now(UTC)})
    frame.head(1).to_parquet(folder / "empty.parquet")
    source = FileSource(path=str(folder / "empty.parquet"), timestamp_field="at")
    entity = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
    schema = [Field(name="memory", dtype=String)]
    view = FeatureView(name="memories", entities=[entity], schema=schema, source=source, ttl=timedelta(days=30))
    store = FeatureStore(repo_path=str(folder))
    store.apply([entity, view])
    store.write_to_online_store("memories", frame)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
