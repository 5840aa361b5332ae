"""Redis servers for the tests, started when first asked for and gone with the process; each store has a name of its own."""

import atexit
import re
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobs.dev.redis_servers import RedisServers
from uic.store.contract import StoreIdentity
from uic.store.redis_store import RedisStore

FEW = 4  # buckets: stores are made by the hundred


@lru_cache
def servers(masters: int = 1) -> RedisServers:
    root = Path(tempfile.mkdtemp(prefix="uic-redis-"))
    started = RedisServers(root, masters=masters)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    atexit.register(started.stop)
    started.start()
    return started


def name_of(path: Path) -> str:
    """The name of the store that a test would have at this path."""
    return "test" + re.sub(r"\W", ".", str(path))[-60:]


def opened(name: str, identity: StoreIdentity, *, masters: int = 1, buckets: int = FEW, **options: Any) -> RedisStore:
    """The store of this name, made where it is not there yet."""
    started = servers(masters)
    return RedisStore.create_or_open(started.url(name), identity, buckets=buckets, **options)


def opened_to_read(name: str, *, masters: int = 1, **options: Any) -> RedisStore:
    started = servers(masters)
    return RedisStore.open_to_read(started.url(name), **options)
