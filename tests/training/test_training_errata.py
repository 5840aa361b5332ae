"""What the authors' training gets wrong and ours must not; of the preparation's errata tests/data tells.

Checkpoints of other sizes in one place are in test_run_directory.py, the samples of the last batches in
test_samples_trained.py, the auxiliary loss in test_models_trained.py.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import small

from onnx_export.bundle import export_run
from onnx_export.parity import check_parity


@pytest.mark.parametrize("miu", [True, False])
def test_erratum_one_slot_and_one_user_at_a_time_are_a_memory_like_any_other(tmp_path: Path, miu: bool) -> None:
    data = small.dataset(tmp_path / "data", users=5, rows=90)
    variant = dataclasses.replace(small.VARIANT, slots=1, mur="none", miu=miu)
    run = small.trained(tmp_path / "run", data, variant=variant, config={"batch_users": 1, "epochs": 1, "regulariser": "none"})
    assert np.isfinite(run.metrics["epochs"][0]["loss"])
    assert run.metrics["best_epoch"] == 1
    model = run.best_memory()
    assert check_parity(model, export_run(run, tmp_path / "bundle"), events=50, users=1).holds
