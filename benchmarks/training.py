"""How many samples a second each model trains on, beside FuxiCTR's DIN and DIEN: forward and backward, one target a history.

    python -m benchmarks.training --work WORK --out benchmarks     everything, 128 histories of 100 events; writes TRAINING.md
    python -m benchmarks.training --only mimn dien                 these alone, without FuxiCTR; prints

Rounds go through all models in turn, FuxiCTR's in a process of its own that waits meanwhile, so that what else the machine does
meets each alike; the median round counts. The optimiser is left out: it costs every model the same, and depends on the size of
the tables. FuxiCTR comes from PyPI into an environment below --work, beside the same PyTorch.
"""

import argparse
import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.training_page import Round, write
from model.nn.ctr import CtrModel, MimnCtr
from model.nn.fused import stepped
from model.nn.fused.scan import run
from model.nn.losses import ctr_loss
from model.nn.models import make
from model.nn.step import MemoryStep
from model.training.histories import Places, UserBatch
from model.training.reading import readings, score_places
from uic.errors import EnvironmentProblem
from uic.models import NAMES, model_variant

ITEMS, CATEGORIES = 10_000, 100
FUXICTR = "fuxictr==2.3.10"
TORCH = "mimn, operations of torch"  # the hand-written scan where nothing can be compiled
STEPS = "mimn, step by step"
_THEIRS = Path(__file__).with_name("training_fuxictr.py")
Batch = Callable[[], float]  # seconds of one forward and backward


def batch_of(users: int, length: int, seed: int = 1) -> UserBatch:
    """Histories of one length at random, each read once at its end for one candidate."""
    rng = np.random.default_rng(seed)
    places = Places(
        user_P=np.arange(users),
        position_P=np.full(users, length),
        item_PN=rng.integers(1, ITEMS, (users, 1)),
        category_PN=rng.integers(1, CATEGORIES, (users, 1)),
        label_PN=rng.integers(0, 2, (users, 1)).astype(np.float32),
        mask_PN=np.ones((users, 1), dtype=bool),
        sample_PN=np.arange(users)[:, None],
        features_PNC=None,
    )
    nobody = torch.zeros(0, dtype=torch.long)
    return UserBatch(
        places,
        torch.from_numpy(rng.integers(1, ITEMS, (users, length))),
        torch.from_numpy(rng.integers(1, CATEGORIES, (users, length))),
        places.position_P,
        [nobody] * length + [torch.arange(users)],
    )


def make_model(name: str) -> CtrModel:
    """A model of the default sizes, untrained; MIMN also with the scans that it does not choose here by itself."""
    torch.manual_seed(1)
    variant = model_variant("mimn" if name in (TORCH, STEPS) else name, "default", embedding=16, slots=8, switches={})
    model = make(variant, item_rows=ITEMS, category_rows=CATEGORIES)
    if isinstance(model, MimnCtr) and name != "mimn":
        step, scan = model.step, partial(run, way=stepped) if name == TORCH else MemoryStep.run
        step.run = partial(scan, step)  # type: ignore[method-assign]  # for this model alone
    return model


def forward_and_backward(model: CtrModel, batch: UserBatch) -> float:
    """Seconds of one batch."""
    began = time.perf_counter()
    model.zero_grad(set_to_none=True)
    for part, seen, _ in readings(model, batch, chunk=batch.positions):
        logits = score_places(model, seen, part)
        ctr_loss(logits, torch.from_numpy(part.label_PN)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return time.perf_counter() - began


def ours(names: list[str], users: int, length: int) -> dict[str, Batch]:
    """Our models, each with the same batch."""
    batch = batch_of(users, length)
    return {name: lambda model=make_model(name): forward_and_backward(model, batch) for name in names}  # type: ignore[misc]  # the default binds this model


@contextlib.contextmanager
def theirs(python: Path | None, users: int, length: int, threads: int) -> Iterator[dict[str, Batch]]:
    """FuxiCTR's models in a process of their own, which computes only while it is asked; none without its Python."""
    if python is None:
        yield {}
        return
    # -P: beside the script lies a profile.py, which is not the standard library's.
    command = [str(python), "-P", str(_THEIRS), *map(str, (users, length, ITEMS, CATEGORIES, threads))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def ask(name: str) -> float:
            print(name, file=asked, flush=True)
            return float(_answer(answers.readline()))

        try:
            names = _answer(answers.readline()).split(";")
            yield {f"FuxiCTR {name}": lambda name=name: ask(name) for name in names}  # type: ignore[misc]  # the default binds this name
        finally:
            asked.close()
            process.wait()


def _answer(line: str) -> str:
    if not line:
        raise EnvironmentProblem(f"{_THEIRS.name} ended; its words stand above")
    return line.strip()


def environment(path: Path) -> Path:
    """The Python of an environment with FuxiCTR and our PyTorch; raises EnvironmentProblem where it cannot be made."""
    python, uv = path / "bin" / "python", shutil.which("uv")
    if uv is None:
        raise EnvironmentProblem("uv: not on this machine; it makes the environment of FuxiCTR")
    if python.exists():
        return python
    wanted = [FUXICTR, f"torch=={torch.__version__.partition('+')[0]}"]
    try:
        subprocess.run([uv, "venv", "--quiet", "--python", "3.11", str(path)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *wanted], check=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise EnvironmentProblem(f"{FUXICTR} cannot be installed into {path}; uv's words stand above") from error
    return python


def measure(batches: dict[str, Batch], rounds: int) -> Iterator[Round]:
    """Seconds of a batch by model, round after round."""
    for batch in batches.values():
        batch()
    for _ in range(rounds):
        yield {name: batch() for name, batch in batches.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*NAMES, TORCH, STEPS], help="these models of ours, and not FuxiCTR's")
    parser.add_argument("--batch", type=int, default=128, help="histories of a batch")
    parser.add_argument("--length", type=int, default=100, help="events of a history")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--work", type=Path, default=Path(".training"), help="folder of FuxiCTR's environment")
    parser.add_argument("--out", type=Path, help="folder of TRAINING.md and its picture; without it the figures are printed")
    asked = parser.parse_args()
    python = None if asked.only else environment(asked.work / "fuxictr").absolute()
    found: dict[int, list[Round]] = {}
    for threads in asked.threads:
        torch.set_num_threads(threads)
        with theirs(python, asked.batch, asked.length, threads) as others:
            batches = {**ours(asked.only or [*NAMES, TORCH, STEPS], asked.batch, asked.length), **others}
            found[threads] = list(measure(batches, asked.rounds))
    print(write(found, users=asked.batch, length=asked.length, out=asked.out))  # noqa: T201  # a benchmark's output


if __name__ == "__main__":
    main()
