"""`uic golden check` fails where a golden file and the model differ, and says in which tensor."""

from pathlib import Path

import numpy as np
import pytest
from command import Uic

GOLDEN = Path(__file__).parents[1] / "model" / "golden" / "cell_m4_mur1_miu1.npz"


def altered(path: Path, key: str, by: float) -> Path:
    with np.load(GOLDEN, allow_pickle=False) as npz:
        arrays = {name: npz[name] for name in npz.files}
    changed = arrays[key].copy()
    changed.reshape(-1)[0] += by
    np.savez(path, **{**arrays, key: changed})
    return path


def test_the_authors_vectors_are_met_tensor_by_tensor(uic: Uic) -> None:
    ended = uic("golden", "check", GOLDEN)
    assert ended.code == 0
    with np.load(GOLDEN, allow_pickle=False) as npz:
        expected = [name for name in npz.files if name.startswith(("out/", "grad/"))]
    for tensor in expected:
        assert tensor in ended.out
    assert f"{GOLDEN.name}: {len(expected)} tensors, worst difference" in ended.out


@pytest.mark.parametrize("key", ["out/M", "out/w_aggre", "out/chan_state", "out/target_read_out"])
def test_one_altered_number_fails_and_its_tensor_is_marked(uic: Uic, tmp_path: Path, key: str) -> None:
    ended = uic("golden", "check", altered(tmp_path / "altered.npz", key, 1e-3))
    assert ended.code == 1
    marked = [line for line in ended.out.splitlines() if "TOO LARGE" in line]
    assert len(marked) == 1
    assert key in marked[0]
    assert "altered.npz" in ended.out
    assert "FAILED: 1 tensors above 1e-05" in ended.out


def test_a_number_that_is_none_fails(uic: Uic, tmp_path: Path) -> None:
    assert uic("golden", "check", altered(tmp_path / "altered.npz", "out/M", np.nan)).code == 1


def test_one_bad_file_among_good_ones_fails(uic: Uic, tmp_path: Path) -> None:
    bad = altered(tmp_path / "altered.npz", "out/M", 1e-3)
    ended = uic("golden", "check", bad, GOLDEN, "--quiet")
    assert ended.code == 1
    assert len(ended.out.splitlines()) == 2
    assert f"{GOLDEN.name}: " in ended.out
