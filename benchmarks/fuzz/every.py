"""All targets, by their names."""

from benchmarks.fuzz import events, files, memories, wires
from benchmarks.fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for module in (memories, events, wires, files) for target in module.targets()}
