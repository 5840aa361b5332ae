"""Our reads against Feast's over the same Redis: one memory an entity, each behind its own HTTP server.

Feast answers with the bytes of a memory. Ours has no such path: it is asked for the score of one candidate, so it reads the
same bytes, checks and decodes them, and scores; and for the usual hundred. Feast is in an environment of its own, made by uv.
"""

import base64
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.rtp import people, servers
from benchmarks.rtp.generator import HOST, Generator
from benchmarks.rtp.people import Histories
from benchmarks.rtp.run import Run
from benchmarks.rtp.summary import summary
from jobs.dev.node import Node, free_port
from jobs.dev.redis_servers import RedisServers
from uic.errors import EnvironmentProblem
from uic.store.redis_store import RedisStore

# Its server asks protobuf for what later ones do not have, so that every read would be an error 500.
FEAST = ("feast[redis]==0.63.0", "protobuf<6")
_RATE = 50.0
_PATH = "/get-online-features"
_SIDE = Path(__file__).with_name("feast_side.py")


def feast(run: Run) -> None:
    """Open-loop at one rate, one after the other: Feast's REST server, ours for one candidate, ours for a hundred."""
    python = environment(run.work / "feast-env")
    rate = min(_RATE, run.sizes.rate)
    users, length, window_s = run.sizes.users, run.sizes.shortest, run.window_s("feast")
    states_UF = people.fold(run.bundle, Histories.draw(run.bundle, users, length), (length,))[length]
    memories = people.memories(run.bundle, length, states_UF)
    with RedisServers(run.work / "redis") as redis:
        url = redis.url()
        with closing(RedisStore.create_or_open(url, run.bundle.identity)) as store:
            assert all(store.write_many(list(memories.items())))
        asked = {
            "ours, 1 candidate": people.bodies(people.users_of(length, users), 4 * users, candidates=1),
            "ours, 100 candidates": people.bodies(people.users_of(length, users), 4 * users),
            "feast": [_request(user) for user in memories],
        }
        with (
            servers.ours(run.work, run.bundle.path, str(url), name="from-redis") as ours,
            _feast_server(python, run.work / "feast", f"{HOST}:{redis.nodes[0].port}", memories) as theirs,
        ):
            _check_answer(theirs, memories)
            for name, bodies in asked.items():
                generator = Generator([theirs if name == "feast" else ours.port], [bodies])
                answers = generator.open_loop(rate=rate, seconds=run.sizes.warm_s + window_s, seed=6)
                alone = summary(generator.closed_loop(connections=1, seconds=window_s / 3))
                generator.close()
                row = {"server": name, "rate": rate, **summary(answers.after(run.sizes.warm_s)), "alone": alone}
                run.note("feast", row)


def environment(path: Path) -> Path:
    """The Python of an environment with Feast; raises EnvironmentProblem where it cannot be made."""
    python = path / "bin" / "python"
    uv = shutil.which("uv")
    if uv is None:
        raise EnvironmentProblem("uv: not on this machine; it makes the environment of Feast")
    try:
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(path)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *FEAST], check=True)
    except subprocess.CalledProcessError as error:
        raise EnvironmentProblem(f"{' '.join(FEAST)}: cannot be installed into {path}; uv's words stand above") from error
    return python


def _asked(user: str) -> bytes:
    return msgspec.json.encode({"features": ["memories:memory"], "entities": {"user": [user]}})


def _request(user: str) -> bytes:
    return people.http(_asked(user), _PATH)


def _check_answer(port: int, memories: dict[str, bytes]) -> None:
    """That Feast's answer has the very bytes: an empty one would be quick."""
    user, memory = next(iter(memories.items()))
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{HOST}:{port}{_PATH}", _asked(user), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    assert base64.b64encode(memory).decode() in text, f"Feast has answered without the memory: {text[:300]}"


@contextmanager
def _feast_server(python: Path, folder: Path, redis: str, memories: dict[str, bytes]) -> Iterator[int]:
    folder.mkdir()
    file = folder / "memories.npz"
    blobs = np.frombuffer(b"".join(memories.values()), dtype=np.uint8).reshape(len(memories), -1)
    np.savez(file, users=np.array(list(memories)), blobs=blobs)
    with (folder / "feast.log").open("wb") as log:
        subprocess.run([str(python), str(_SIDE), str(folder), redis, str(file)], check=True, stdout=log, stderr=log)
    port = free_port()
    # One worker and no log of accesses, as the server is by default and at its quickest.
    command = [str(python.with_name("feast")), "-c", str(folder), "serve", "-h", HOST, "-p", str(port), "--no-access-log"]
    node = Node(
        "feast",
        command=lambda _: command,
        environment={"PATH": str(python.parent), "HOME": str(folder), "FEAST_USAGE": "False"},
        log=folder / "feast.log",
        port=port,
        is_ready=lambda: servers.is_ready(port, "/health"),
    )
    node.start()
    try:
        node.wait_ready()
        yield port
    finally:
        node.stop()
