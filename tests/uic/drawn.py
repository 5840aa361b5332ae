"""What the tests of uic/ draw: layouts, memories and events as hypothesis strategies, and small fixed ones."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from uic.codec import Codec
from uic.event import MAX_TEXT_BYTES, BehaviourEvent
from uic.memory import Float32, MemoryLayout, UserMemory
from uic.update import Rules, Updater
from uic.variant import Variant
from uic.vocabulary import Vocabulary

SMALL: dict[str, Any] = {"event_width": 4, "controller_units": 3, "slots": 3, "slot_width": 2, "output_width": 5}
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 2**63 - 1)
USER_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=32)  # at most 128 bytes

switches: dict[str, st.SearchStrategy[Any]] = {
    "mur": st.sampled_from(["none", "shift", "transfer"]),
    "utilization": st.sampled_from(["raw", "share"]),
    "key_memory": st.booleans(),
    "temperature": st.booleans(),
    "miu": st.booleans(),
    "miu_memory": st.sampled_from(["before", "after"]),
    "miu_readout": st.sampled_from(["state", "last_output"]),
    "pooling": st.sampled_from(["sum", "mean"]),
    "head_controller": st.booleans(),
    "read_feedback": st.booleans(),
}
sizes: dict[str, st.SearchStrategy[Any]] = {
    "event_width": st.integers(1, 6),
    "controller_units": st.integers(1, 6),
    "slots": st.integers(3, 6),
    "slot_width": st.integers(1, 6),
    "output_width": st.integers(1, 6),
    "top_channels": st.integers(1, 3),
}
variants = st.builds(Variant, **sizes, **switches)
layouts = st.builds(MemoryLayout, variants, ring_size=st.integers(0, 5))


@st.composite
def memories(draw: st.DrawFn, layout: MemoryLayout) -> UserMemory:
    floats = draw(st.binary(min_size=4 * layout.size_F, max_size=4 * layout.size_F))
    return UserMemory(
        state_F=np.frombuffer(floats, dtype="<f4"),
        fingerprints=draw(st.binary(min_size=16 * layout.ring_size, max_size=16 * layout.ring_size)),
        sequence=draw(st.integers(0, 2**64 - 1)),
        last_time_ms=draw(st.none() | TIMES),
        log_time_ms=draw(st.none() | TIMES),
        generation=draw(st.integers(0, 2**32 - 1)),
        bundle_version=draw(st.integers(0, 2**64 - 1)),
    )


def texts() -> st.SearchStrategy[str]:
    """Texts of 1 to 128 UTF-8 bytes, any characters but lone surrogates."""
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_TEXT_BYTES)
    return text.filter(lambda value: len(value.encode()) <= MAX_TEXT_BYTES)


events = st.builds(
    BehaviourEvent,
    user_id=texts(),
    item_id=INT64,
    category_id=INT64,
    behaviour=texts(),
    time_ms=TIMES,
    event_id=st.none() | texts(),
    source=st.none() | texts(),
)


def event(time_ms: int = 1000, item_id: int = 10, **changes: Any) -> BehaviourEvent:
    """One click of user u1."""
    fields = {"user_id": "u1", "category_id": 7, "behaviour": "click"}
    return BehaviourEvent(**{**fields, "time_ms": time_ms, "item_id": item_id, **changes})


def fake_step(state_BF: Float32, item_rows_B: np.ndarray, category_rows_B: np.ndarray) -> Float32:
    """state / 2 + item row + category row / 4: exact in float32 for short histories, and the order of events matters."""
    return (state_BF / 2 + (item_rows_B + category_rows_B / 4)[:, None]).astype(np.float32)


def updater(
    *, ring_size: int = 16, lateness_ms: int = 1000, accept_late: bool = False, items: int = 20, rules: Rules | None = None
) -> Updater:
    """An updater over the fake step, with items 10 to 10 + items - 1 and categories 1 to 9."""
    layout = MemoryLayout(Variant(**SMALL), ring_size=ring_size)
    return Updater(
        codec=Codec(layout),
        step=fake_step,
        initial=UserMemory(state_F=np.zeros(layout.size_F, np.float32), fingerprints=bytes(16 * ring_size)),
        items=Vocabulary(np.arange(10, 10 + items)),
        categories=Vocabulary(np.arange(1, 10)),
        bundle_version=99,
        rules=rules or Rules(lateness_ms=lateness_ms, accept_late=accept_late),
    )
