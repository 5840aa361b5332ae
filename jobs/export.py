"""`uic export`: a trained run as a bundle for streaming and serving."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export_command(
    run: Annotated[Path, typer.Argument(help="A folder that `uic train` wrote.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle in the output folder.")] = False,
    parity_events: Annotated[int, typer.Option(help="Events a user over which the three runtimes are compared.")] = 1000,
) -> None:
    """Export the best epoch of a run to ONNX, and check that numpy, PyTorch and ONNX Runtime agree.

    Example: uic export runs/first --out bundles/first
    """
    import torch

    from model.training.run import Run
    from onnx_export.bundle import export_run
    from onnx_export.parity import check_parity, record_parity
    from uic import artefact
    from uic.bundle import KIND

    console = Console(soft_wrap=True, highlight=False)
    torch.set_num_threads(1)  # parity takes thousands of small steps: see DECISIONS, "One thread"
    artefact.check_may_write(out, KIND, replace=overwrite)
    opened = Run.open(run)
    with console.status("exporting the step and the score"):
        bundle = export_run(opened, out, replace=overwrite)
    manifest = bundle.manifest
    console.print(
        f"bundle {manifest.version}: layout {manifest.layout}, lineage {manifest.lineage}, {bundle.codec.size} bytes a memory"
    )
    with console.status(f"comparing numpy, PyTorch and ONNX Runtime over {parity_events} events"):
        parity = check_parity(opened.best_memory(), bundle, events=parity_events)
    for pair, value in parity.excess.items():
        console.print(f"  {pair:22} largest difference {value:.3f} of the tolerance")
    record_parity(bundle, parity)
    if parity.note is not None:
        console.print(f"  {parity.note}")
    for fault in parity.faults:
        console.print(f"  {fault}")
    if not parity.holds:
        console.print("parity does not hold: the bundle is there, but must not be used")
        raise typer.Exit(1)
    console.print(f"parity holds over {parity.events} events; {out}")
