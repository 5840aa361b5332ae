"""A bundle, events and a straight fold for the scenarios: small and quick, yet of the real formats and the real runtime."""

import json
import random
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from uic import artefact
from uic.bundle import FORMAT, KIND, MANIFEST, REQUIRED, Bundle, Manifest, digest
from uic.codec import Codec
from uic.errors import InvalidEvent
from uic.event import BehaviourEvent, parse_event
from uic.fold import Folded, fold
from uic.memory import MemoryLayout, UserMemory
from uic.runtime import OnnxStep
from uic.update import Rules
from uic.variant import Variant

ITEMS = np.arange(1, 201, dtype=np.int64)
CATEGORIES = np.arange(1, 11, dtype=np.int64)
BEHAVIOURS = ["click", "buy"]
START_MS = 1_700_000_000_000
SIZES = {"event_width": 4, "controller_units": 4, "slots": 4, "slot_width": 4, "output_width": 4}


def make_bundle(
    path: Path,
    *,
    lineage: str = "toy",
    slots: int = 4,
    is_broken: bool = False,
    version: int = 1,
    parent: int | None = None,
    keeps: float = 0.5,
    more_items: int = 0,
) -> Path:
    """A bundle whose step is state / 2 + item row + category row / 4: exact in float32, and the order of events matters.

    `is_broken`: its step takes states of another size, so the first event is a Python exception within the job. A child of its
    `parent` keeps another share of the state (powers of two stay exact) and knows more items.
    """
    variant = Variant(**{**SIZES, "slots": slots})  # type: ignore[arg-type]  # all of them are sizes
    layout = MemoryLayout(variant)
    with artefact.new_directory(path, KIND) as folder:
        (folder / "step.onnx").write_bytes(_step_graph(layout.size_F + is_broken, keeps))
        (folder / "score.onnx").write_bytes(b"unused")
        (folder / "embeddings.bin").write_bytes(b"")
        np.savez(folder / "vocabulary.npz", item_ids=np.arange(1, len(ITEMS) + 1 + more_items), category_ids=CATEGORIES)
        np.savez(folder / "weights.npz")
        initial = UserMemory(state_F=np.zeros(layout.size_F, np.float32), fingerprints=bytes(16 * layout.ring_size))
        (folder / "initial.bin").write_bytes(Codec(layout).encode(initial))
        manifest = Manifest(
            version=version,
            layout=layout.layout_name,
            lineage=lineage,
            parent=parent,
            training_cut_off_ms=3_600_000 * version,
            variant=variant.to_json(),
            ring_size=layout.ring_size,
            embedding=2,
            behaviours=BEHAVIOURS,
            head_features=[],
            memory_tensors=[],
            graphs={"step.onnx": {"inputs": ["state", "item", "category"], "outputs": ["after"]}},
            training={},
            files={name: digest(folder / name) for name in REQUIRED},
            format=FORMAT,
        )
        (folder / MANIFEST).write_text(manifest.to_json())
    return path


def make_lines(count: int, *, users: int, seed: int) -> list[bytes]:
    """Event lines as a log has them: mostly good ones, some duplicates, some late ones, some broken in different ways."""
    draw = random.Random(seed)
    lines: list[bytes] = []
    for number in range(count):
        event = {
            "user_id": f"u{draw.randrange(users)}",
            "item_id": draw.randrange(1, 221),
            "category_id": draw.randrange(1, 11),
            "behaviour": draw.choice(BEHAVIOURS),
            "time_ms": START_MS + number * 1000,
        }
        chance = draw.random()
        if chance < 0.01 and lines:
            lines.append(draw.choice(lines[-20:]))
        elif chance < 0.02:
            lines.append(json.dumps({**event, "time_ms": START_MS - 10 * 86_400_000 + number}).encode())
        elif chance < 0.03:
            lines.append(draw.choice([b"{", b"\xff\xfe", b"[1]", b'{"user_id": "u1"}', b"\x00\x00", b'{"user_id": ""}']))
        elif chance < 0.035:
            lines.append(json.dumps({**event, "behaviour": "unknown"}).encode())
        else:
            lines.append(json.dumps(event).encode())
    return lines


def write_files(folder: Path, lines: list[bytes], *, files: int, first: int = 0) -> None:
    """The lines in order as files part-000.jsonl and on."""
    folder.mkdir(exist_ok=True)
    size = -(-len(lines) // files)
    for number in range(files):
        part = lines[number * size : (number + 1) * size]
        (folder / f"part-{first + number:03d}.jsonl").write_bytes(b"".join(line + b"\n" for line in part))


def straight(bundle_path: Path, folder: Path) -> tuple[Folded, int]:
    """The same files folded without a stream: every user's memory, and how many lines are no events."""
    bundle = Bundle.open(bundle_path)
    events: list[BehaviourEvent] = []
    dead = 0
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if line.strip(b"\r"):
                try:
                    events.append(parse_event(line.removesuffix(b"\r"), now_ms=1 << 60, accepted=bundle.accepted))
                except InvalidEvent:
                    dead += 1
    return fold(bundle.updater(OnnxStep(bundle), Rules()), events), dead


def _step_graph(size: int, keeps: float) -> bytes:
    constants = {"share": [keeps], "quarter": [0.25]}
    initializers = [helper.make_tensor(name, TensorProto.FLOAT, [1], value) for name, value in constants.items()]
    initializers.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    nodes = [
        helper.make_node("Cast", ["item"], ["item_f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["category"], ["category_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["category_f", "quarter"], ["category_q"]),
        helper.make_node("Add", ["item_f", "category_q"], ["event"]),
        helper.make_node("Unsqueeze", ["event", "axis"], ["event_B1"]),
        helper.make_node("Mul", ["state", "share"], ["faded"]),
        helper.make_node("Add", ["faded", "event_B1"], ["after"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", size]),
            helper.make_tensor_value_info("item", TensorProto.INT64, ["B"]),
            helper.make_tensor_value_info("category", TensorProto.INT64, ["B"]),
        ],
        [helper.make_tensor_value_info("after", TensorProto.FLOAT, ["B", size])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
