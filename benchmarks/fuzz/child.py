"""One target under atheris, in a process of its own: libFuzzer alters bytes, and keeps those that reach new code of ours.

    python -m benchmarks.fuzz.child TARGET FINDINGS [what libFuzzer takes: corpus, -max_total_time=60, -seed=1, ...]

Bytes that break a law are written to the folder FINDINGS, one file a reason, and fuzzing goes on. Only a hang, too much memory
or the death of the interpreter ends it early; then libFuzzer leaves the bytes there.
"""

import json
import random
import sys
from pathlib import Path

import atheris

_OURS = ["uic", "operators", "serving", "jobs"]


def main() -> None:
    with atheris.instrument_imports(include=_OURS, enable_loader_override=False):
        from benchmarks.fuzz.every import TARGETS
        from benchmarks.fuzz.mutate import mutated
        from benchmarks.fuzz.target import broken

    name, folder, *options = sys.argv[1:]
    target, findings = TARGETS[name], Path(folder)
    seen: set[str] = set()

    def one(data: bytes) -> None:
        finding = broken(target, data)
        if finding is not None and finding.name not in seen:
            seen.add(finding.name)
            (findings / finding.name).write_bytes(data)
            said = {"error": finding.error, "place": finding.place}
            (findings / f"{finding.name}.json").write_text(json.dumps(said))

    def alter(data: bytes, most_bytes: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.5:
            return mutated(target, data, draw)[:most_bytes]
        changed: bytes = atheris.Mutate(data, most_bytes)
        return target.mend(changed, draw)[:most_bytes] if draw.random() < 0.5 else changed

    atheris.Setup([sys.argv[0], *options], one, custom_mutator=alter)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
