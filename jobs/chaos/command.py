"""`uic chaos`: faults on purpose, on a stack of its own, each followed by the proof that no event was lost or applied twice."""

import itertools
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from uic.bundle import Bundle
from uic.errors import BadInput, UicError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.chaos.faults import Act
    from jobs.chaos.proof import Proof
    from jobs.chaos.world import Case
    from jobs.dev.stack import DevStack

PLANS = ("batched", "per-event")
BACKENDS = ("hashmap", "rocksdb")


def chaos_command(
    faults: Annotated[list[str] | None, typer.Argument(help="Which faults; default: all, the control first.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle whose step is applied, a trained one.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="batched, per-event; default: both.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="hashmap, rocksdb; default: both.")] = None,
    events: Annotated[int, typer.Option(help="Events of each load.")] = 100_000,
    users: Annotated[int, typer.Option(help="Users of each load.")] = 1_000,
    rate: Annotated[float, typer.Option(help="Events a second.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the first round; each further round adds one.")] = 1,
    rounds: Annotated[int, typer.Option(help="How often all of it, each time with another seed.")] = 1,
    folder: Annotated[Path | None, typer.Option("--dir", help="Where to work; kept if anything fails.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Say what faults there are, and end.")] = False,
) -> None:
    """Run a real Kafka and Flink cluster, let things go wrong, and prove that nothing was lost or applied twice.

    After each fault: every memory equals the offline fold, sequences equal what the generator counted, the store equals the
    job's state, letters are complete. Exit code 1 where anything does not hold. Example: uic chaos --bundle bundles/first
    kill-ten-times --plan batched --rounds 5
    """
    from jobs.chaos.faults import FAULTS

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if names:
        for name, fault in FAULTS.items():
            console.print(f"{name:<24} {fault.help}")
        return
    if bundle is None:
        raise BadInput("--bundle: name the bundle whose step is applied; `uic export` makes one")
    wanted = faults or list(FAULTS)
    _check("fault", wanted, FAULTS)
    _check("plan", plan or [], PLANS)
    _check("backend", backend or [], BACKENDS)
    model = Bundle.open(bundle)
    # What fails in the control is no fault's doing: it always comes first.
    ordered = ["control", *(name for name in wanted if name != "control")]
    root = Path(tempfile.mkdtemp(prefix="uic-chaos-")) if folder is None else folder
    results: list[tuple[str, Proof | None, str, float]] = []
    # What the bundle does not know would be dead, and none of the faults' doing.
    load = {"events": events, "users": users, "behaviours": tuple(sorted(model.accepted)), "ring": model.layout.ring_size}
    for turn in range(rounds):
        shapes = itertools.product(ordered, plan or PLANS, backend or BACKENDS)
        cases = [_case(name, of_plan, of_backend, load, rate, seed + turn) for name, of_plan, of_backend in shapes]
        results += _run_all(root / f"round-{turn + 1}", bundle, cases, console)
    _show(results, console)
    if any(proof is None or not proof.holds for _, proof, _, _ in results):
        console.print(f"what was left behind is in {root}")
        raise typer.Exit(1)
    if folder is None:
        shutil.rmtree(root, ignore_errors=True)


def run_case(stack: "DevStack", root: Path, bundle: Path, case: "Case", say: "Callable[[str], None]", *acts: "Act") -> "Proof":
    """A load under these faults, one after the other, from start to proof; the job is ended whatever happens."""
    from jobs.chaos.world import World

    world = World(stack, root, bundle, case, say)
    try:
        world.start()
        for act in acts:
            act(world)
        world.settle()
        return world.prove()
    finally:
        world.close()


def _case(fault: str, plan: str, backend: str, load: dict[str, Any], rate: float, seed: int) -> "Case":
    from jobs.chaos.faults import FAULTS
    from jobs.chaos.world import Case
    from uic.synthetic.spec import SyntheticSpec

    shares = {"duplicates": 0.02, "disorder": 0.02, "too_late": 0.01, "poison": 0.01, **FAULTS[fault].load}
    return Case(
        fault=fault,
        plan=plan,
        backend=backend,
        spec=SyntheticSpec(zipf=1.1, items=200, categories=10, seed=seed, **{**shares, **load}),
        rate=rate,
        seed=seed,
        small_disk=FAULTS[fault].is_small,
    )


def _run_all(root: Path, bundle: Path, cases: "list[Case]", console: Console) -> "list[tuple[str, Proof | None, str, float]]":
    from jobs.chaos.faults import FAULTS
    from jobs.dev.stack import DevStack

    results: list[tuple[str, Proof | None, str, float]] = []
    # A worker lives for seconds here: what C2 would compile takes more CPU time than it ever saves.
    quick = {"env.java.opts.taskmanager": "-XX:TieredStopAtLevel=1"}
    with DevStack(root / "stack", taskmanagers=3, flink=quick, say=console.print) as stack:
        for case in cases:
            console.print(f"{case.name}, seed {case.seed}")
            started = time.monotonic()
            try:
                proof, error = run_case(stack, root, bundle, case, console.print, FAULTS[case.fault].act), ""
            except UicError as raised:
                proof, error = None, f"{type(raised).__name__}: {raised}"
            results.append((case.name, proof, error, time.monotonic() - started))
            for wrong in [error] if proof is None else proof.wrong:
                console.print(f"  WRONG: {wrong}")
            if proof is not None and proof.holds:
                console.print(f"  holds: {proof.applied:,} events of {proof.users:,} users, {results[-1][-1]:.0f} s")
    return results


def _check(what: str, given: list[str], known: Any) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadInput(f"{what}: expected one of {', '.join(known)}, got {', '.join(unknown)}")


def _show(results: "list[tuple[str, Proof | None, str, float]]", console: Console) -> None:
    table = Table("seconds", "users", "applied", "late", "dead", "holds", "fault")
    for name, proof, _, seconds in results:
        if proof is None:
            table.add_row(f"{seconds:.0f}", "", "", "", "", "did not end", name)
            continue
        counts = (f"{proof.users:,}", f"{proof.applied:,}", f"{proof.left['late']:,}", f"{proof.left['dead']:,}")
        table.add_row(f"{seconds:.0f}", *counts, "yes" if proof.holds else "NO", name)
    console.print(table)
