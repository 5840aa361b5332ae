"""`uic serve` over a store in Redis: every answer sees what was written before it, and none is made of what is not there."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import tiny

from jobs.dev.redis_servers import RedisServers
from serving.client import Candidate, NotScored, ScoreClient
from uic.bundle import Bundle
from uic.store.redis_store import RedisStore

CANDIDATES = [Candidate(3, 2), Candidate(1, 1)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    with RedisServers(tmp_path / "redis") as started:
        yield started


def asked(client: ScoreClient, status: int) -> float:
    """Seconds until the server gave no scores, for this reason."""
    began = time.monotonic()
    with pytest.raises(NotScored) as caught:
        client.score("u", CANDIDATES)
    assert caught.value.status == status
    return time.monotonic() - began


def test_a_server_reads_redis_and_says_when_it_cannot(servers: RedisServers, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny.make_bundle(tmp_path / "bundle"))
    url = servers.url(timeout_s=0.2)._replace(retries=1)
    with closing(RedisStore.create_or_open(url, bundle.identity)) as store:
        for_user = [
            bundle.codec.encode(tiny.memory(bundle, level, sequence=sequence)) for sequence, level in ((1, 0.5), (2, -1.0))
        ]
        with tiny.serving(bundle.path, Path(str(url)), time_s=5) as server, ScoreClient(server.url, tries=1) as client:
            assert client.score("u", CANDIDATES).found == "initial"
            for number, blob in enumerate(for_user, 1):
                assert store.write("u", blob)
                scored = client.score("u", CANDIDATES)
                assert scored.memory is not None
                assert scored.memory.events == number
            redis = servers.nodes[0]
            redis.pause()
            assert asked(client, 503) < 2
            redis.resume()
            assert client.score("u", CANDIDATES).found == "live"
            redis.kill()
            assert asked(client, 503) < 2
            redis.start()
            redis.wait_ready()
            # It has lost everything: that is not the same as a user whom nobody has ever seen.
            assert asked(client, 503) < 2
            assert store.write("u", for_user[0])
            assert client.score("u", CANDIDATES).found == "live"
            assert server.end() == 0
