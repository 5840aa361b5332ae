"""How all tests run: one torch thread, the same hypothesis examples every time, and processes that start quickly."""

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported: two of its threads on a busy machine are fifty times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Where compiled files may not be kept, each of the hundreds of processes compiles torch, pandas and PyFlink anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A JVM lives for seconds or minutes here: what C2 would compile takes more CPU time than it saves.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

settings.register_profile("uic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("uic")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
