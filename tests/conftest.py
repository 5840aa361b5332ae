"""How all tests run: one torch thread, and the same hypothesis examples every time."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: two of its threads on a busy machine are fifty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

settings.register_profile("uic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("uic")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
