"""`uic events generate`: synthetic behaviour in files, with what must become of it. For load and faults, never for quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from uic.artefact import new_directory
from uic.errors import BadInput

if TYPE_CHECKING:
    from uic.synthetic.block import Ids
    from uic.synthetic.spec import SyntheticSpec
    from uic.synthetic.tally import Tally

KIND = "events"
PER_FILE = 20_000
EXPECTED = "expected.json"


def generate_command(
    spec: Annotated[list[str] | None, typer.Argument(help="name=value, such as users=1000 zipf=1.1; see `--fields`.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Draw from this bundle's items, categories and behaviours.")] = None,
    per_file: Annotated[int, typer.Option(help="Events in each file.")] = PER_FILE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older event files in the output folder.")] = False,
    fields: Annotated[bool, typer.Option("--fields", help="Print all that a spec can say, with defaults, and end.")] = False,
) -> None:
    """Write synthetic events as files, and in expected.json what must become of them. For load and faults only.

    Users drift among interests, items are Zipf popular; duplicates, disorder, late events and poison come at the shares asked
    for. expected.json counts outcomes and dead letters by reason, and each user's applied events: what `uic verify` must find.
    The same spec makes the same bytes. `uic events produce --generate` sends such events to Kafka without files.

    Example: uic events generate events=100000 users=1000 zipf=1.1 poison=0.01 seed=1 --out load
    """
    if fields:
        from uic.synthetic.spec import help_text

        typer.echo(help_text())
        return
    if out is None:
        raise BadInput("--out: expected a folder to write; `uic events produce --generate` sends without files")
    console = Console(soft_wrap=True, highlight=False)
    with console.status("generating"):
        tally = write_load(spec or [], out, bundle=bundle, per_file=per_file, replace=overwrite)
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in tally.outcomes.items())
    console.print(f"{outcomes or 'no events'}: {out}")


def spec_of(words: list[str], bundle: Path | None, **known: Any) -> "tuple[SyntheticSpec, Ids | None]":  # fields of a spec
    """The spec that the words ask for; with a bundle, over its vocabulary, behaviours and fingerprint ring."""
    from uic.synthetic.block import Ids
    from uic.synthetic.spec import parse_spec

    if bundle is None:
        return parse_spec(words, **known), None
    from uic.bundle import Bundle

    opened = Bundle.open(bundle)
    known |= {
        "items": len(opened.items),
        "categories": len(opened.categories),
        "behaviours": tuple(sorted(opened.accepted)),
        "ring": opened.manifest.ring_size,
    }
    spec = parse_spec(words, **known)
    for name in ("items", "categories"):
        if getattr(spec, name) > known[name]:
            raise BadInput(f"synthetic events: {name}: {bundle} has {known[name]}, got {getattr(spec, name)}")
    return spec, Ids(opened.items.ids[: spec.items], opened.categories.ids[: spec.categories])


def write_load(words: list[str], out: Path, *, bundle: Path | None, per_file: int = PER_FILE, replace: bool = False) -> "Tally":
    """Write the events of a spec as `events-00000.jsonl` and so on, with expected.json beside them."""
    from uic.synthetic.generate import generate
    from uic.synthetic.poison import FILE_KINDS
    from uic.synthetic.tally import Tally

    spec, ids = spec_of(words, bundle, poisons=FILE_KINDS)
    if spec.events is None:
        raise BadInput("synthetic events: files need an end; say how many, such as events=100000")
    if keyed := sorted(set(spec.poisons) - set(FILE_KINDS)):
        raise BadInput(f"synthetic events: poisons: files have no Kafka keys, so no {', '.join(keyed)}")
    if per_file < 1:
        raise BadInput(f"--per-file: expected at least 1, got {per_file}")
    tally = Tally()
    lines: list[bytes] = []
    width = max(5, len(str(spec.events // per_file)))  # names must sort like numbers
    written = 0
    with new_directory(out, KIND, replace=replace) as partial:

        def write(count: int) -> None:
            nonlocal written
            (partial / f"events-{written:0{width}d}.jsonl").write_bytes(b"\n".join(lines[:count]) + b"\n")
            del lines[:count]
            written += 1

        for block in generate(spec, ids):
            tally.add(block)
            lines += block.payloads
            while len(lines) >= per_file:
                write(per_file)
        if lines:
            write(per_file)
        (partial / EXPECTED).write_text(tally.as_json())
    return tally
