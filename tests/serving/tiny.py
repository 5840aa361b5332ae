"""A bundle whose score is a formula, memories for it, and a server of the command line in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from uic.bundle import MANIFEST, Bundle, Manifest, digest
from uic.memory import UserMemory
from uic.store.rocksdb import RocksStore

ROOT = Path(__file__).parents[2]
ENDS_WITHIN_S = 30


def make_bundle(path: Path, *, features: tuple[str, ...] = (), shift: float = 0.0, **asked: Any) -> Path:
    """P = sigmoid(mean of the state + item row / 64 + category row / 16 + sum of features + `shift`), 0 where masked."""
    toy.make_bundle(path, **asked)
    manifest = Manifest.read(path / MANIFEST)
    size = Bundle.open(path).layout.size_F
    (path / "score.onnx").write_bytes(_score_graph(size, len(features), shift))
    inputs = ["state", "item", "category", "mask"] + (["features"] if features else [])
    changed = dataclasses.replace(
        manifest,
        head_features=list(features),
        graphs={**manifest.graphs, "score.onnx": {"inputs": inputs, "outputs": ["probability"]}},
        files={**manifest.files, "score.onnx": digest(path / "score.onnx")},
    )
    (path / MANIFEST).write_text(changed.to_json())
    return path


def memory(bundle: Bundle, level: float, *, sequence: int = 1, log_time_ms: int = toy.START_MS, **fields: Any) -> UserMemory:
    """A memory all of whose floats are `level`."""
    return dataclasses.replace(
        bundle.initial,
        state_F=np.full(bundle.layout.size_F, level, dtype=np.float32),
        sequence=sequence,
        last_time_ms=log_time_ms,
        log_time_ms=log_time_ms,
        **{"bundle_version": bundle.manifest.version, **fields},
    )


def make_store(path: Path, bundle: Bundle, memories: dict[str, UserMemory]) -> Path:
    store = RocksStore.create_or_open(path, bundle.identity)
    for user, each in memories.items():
        assert store.write(user, bundle.codec.encode(each))
    store.close()
    return path


class Server:
    """`uic serve` as a process: where it listens, and the lines that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._new: Queue[dict[str, Any] | None] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        listening = self.wait_for("listening")
        self.url = f"http{'s' if listening['tls'] else ''}://localhost:{listening['port']}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):  # closed, since the test is over
            for line in self.process.stdout:
                self._new.put(json.loads(line))
        self._new.put(None)

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next line that tells of this event."""
        while (line := self._new.get(timeout=ENDS_WITHIN_S)) is not None:
            self.lines.append(line)
            if line.get("event") == event:
                return line
        assert self.process.stderr is not None
        raise AssertionError(f"the server ended without {event!r}; it said {self.lines} and {self.process.stderr.read()!r}")

    def end(self) -> int:
        """Ask it to stop; its exit code. All its lines are in `lines` then."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(ENDS_WITHIN_S)
        while (line := self._new.get(timeout=ENDS_WITHIN_S)) is not None:
            self.lines.append(line)
        return code


@contextmanager
def started(bundle: Path, store: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a server; `settings` are those of `serve` in uic.yaml."""
    asked = {"host": "localhost", "port": 0, "drain_s": 0, **settings}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "serve", "--bundle", bundle, "--store", store],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=store.parent if store.parent.is_dir() else bundle.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | {f"UIC__SERVE__{name.upper()}": str(asked[name]) for name in asked},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def serving(bundle: Path, store: Path, **settings: object) -> Iterator[Server]:
    """A server that is ready."""
    with started(bundle, store, **settings) as process:
        server = Server(process)
        server.wait_for("bundle")
        yield server


def _score_graph(size: int, features: int, shift: float) -> bytes:
    constants = {"sixty_fourth": [1 / 64], "sixteenth": [1 / 16], "shift": [shift]}
    initializers = [helper.make_tensor(name, TensorProto.FLOAT, [1], value) for name, value in constants.items()]
    initializers += [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("one", 1), ("two", 2))]
    nodes = [
        helper.make_node("ReduceMean", ["state", "one"], ["mean_B1"], keepdims=1),
        helper.make_node("Cast", ["item"], ["item_f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["category"], ["category_f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["mask"], ["mask_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["item_f", "sixty_fourth"], ["of_item"]),
        helper.make_node("Mul", ["category_f", "sixteenth"], ["of_category"]),
        helper.make_node("Add", ["of_item", "of_category"], ["of_candidate"]),
        helper.make_node("Add", ["of_candidate", "mean_B1"], ["unshifted"]),
        helper.make_node("Add", ["unshifted", "shift"], ["logit" if features == 0 else "plain"]),
        helper.make_node("Sigmoid", ["logit"], ["unmasked"]),
        helper.make_node("Mul", ["unmasked", "mask_f"], ["probability"]),
    ]
    inputs = [
        helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", size]),
        helper.make_tensor_value_info("item", TensorProto.INT64, ["B", "N"]),
        helper.make_tensor_value_info("category", TensorProto.INT64, ["B", "N"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", "N"]),
    ]
    if features:
        inputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", "N", features]))
        nodes[-2:-2] = [
            helper.make_node("ReduceSum", ["features", "two"], ["of_features"], keepdims=0),
            helper.make_node("Add", ["plain", "of_features"], ["logit"]),
        ]
    output = helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["B", "N"])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
