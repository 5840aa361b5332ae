"""When two runtimes made the same memory (uic/tolerance.py)."""

import numpy as np
import pytest

from uic.memory import MemoryLayout
from uic.tolerance import excess, memory_excess
from uic.variant import Variant, preset


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_tolerance_is_1e_5_absolute_plus_1e_5_relative_and_one_is_its_border() -> None:
    assert excess(floats(1e-5, 0.0), floats(0.0, 0.0)) == pytest.approx([1.0, 0.0])
    assert excess(floats(1000.0), floats(1000.0 + 1.0)) == pytest.approx([1.0 / (1e-5 + 1e-5 * 1001.0)])
    assert excess(floats(1.0 + 1.9e-5), floats(1.0)) < 1.0
    assert excess(floats(1.0 + 2.2e-5), floats(1.0)) > 1.0
    assert excess(floats(-1.0), floats(1.0)) > 1.0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("have", "want"), [(np.nan, 0.0), (0.0, np.nan), (np.nan, np.nan), (np.inf, np.inf), (0.0, np.inf), (np.inf, 0.0)]
)
def test_what_is_not_finite_is_never_equal(have: float, want: float) -> None:
    assert excess(floats(have), floats(want)) == [np.inf]


def test_the_worst_value_of_each_user_in_each_tensor_is_told() -> None:
    layout = MemoryLayout(Variant(slots=3, slot_width=2, event_width=2, controller_units=2))
    want = np.zeros((2, layout.size_F), np.float32)
    have = want.copy()
    layout.split(have)["slots"][1, 2, 0] = 3e-5
    worst = memory_excess(layout, have, want)
    assert list(worst) == [spec.name for spec in layout.tensors]
    assert worst["slots"] == pytest.approx([0.0, 3.0])
    assert not worst["controller"].any()


def test_sums_are_compared_as_means_and_means_as_they_are() -> None:
    for name, expected in (("official", 1.0), ("default", 1000.0)):
        layout = MemoryLayout(preset(name))
        want = np.zeros((1, layout.size_F), np.float32)
        layout.split(want)["applied"][:] = 1000.0
        have = want.copy()
        layout.split(have)["event_pool"][0, 0] = 1e-2
        assert memory_excess(layout, have, want)["event_pool"] == pytest.approx([expected])
        assert layout.split(have)["event_pool"][0, 0] == np.float32(1e-2), "what is compared is not changed"
