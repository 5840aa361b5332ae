"""Runs targets for a time each, every one in a process of its own, and gathers what came of it."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz.target import Finding, Target, broken
from uic.errors import EnvironmentProblem

# One execution takes a millisecond; a megabyte of JSON may take longer.
_HANGS_AFTER_S = 10
_MOST_MB = 2048
_PROGRESS = re.compile(r"^#(?P<runs>\d+)\s.*?cov: (?P<edges>\d+) ft: (?P<features>\d+) corp: (?P<corpus>\d+)", re.MULTILINE)
_PEAK = re.compile(r"peak_rss_mb:\s*(\d+)")


@dataclass
class Ran:
    """What a target's time came to. `edges`: places of our code that were reached, as libFuzzer counts them."""

    name: str
    law: str
    seconds: float = 0.0
    runs: int = 0
    edges: int = 0
    corpus: int = 0
    peak_mb: int = 0
    findings: list[Finding] = field(default_factory=list)


def fuzz(target: Target, seconds: float, *, seed: int, corpus: Path, tell: Callable[[str], None] = lambda line: None) -> Ran:
    """Fuzz one target for so many seconds, going on from the corpus in the folder; what is found is under it as well."""
    kept, findings = corpus / target.name, corpus / "findings"
    for folder in (kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for place, blob in enumerate(target.seeds):
        (kept / f"seed-{place}").write_bytes(blob)
    _drop_mended(target, findings)
    ran, began = Ran(target.name, target.law), time.monotonic()
    while (left_s := seconds - (time.monotonic() - began)) >= 1:
        code, said = _child(target, left_s, seed, kept, findings)
        _count(ran, said)
        found = len(list(findings.glob(f"{target.name}-*.json")))
        tell(f"{target.name}: {ran.runs:,} executions, {ran.edges} edges, {found} findings")
        if code != 0:
            # libFuzzer has left the bytes that ended it; another seed goes another way.
            ran.findings += _ended(target, said, findings)
            seed += 1
    ran.seconds = time.monotonic() - began
    ran.findings += [_read(target, path) for path in sorted(findings.glob(f"{target.name}-*.json"))]
    return ran


def _child(target: Target, seconds: float, seed: int, kept: Path, findings: Path) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="uic-fuzz-") as scratch:
        words = Path(scratch, "words")
        words.write_text(
            "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words if len(word) <= 64)
        )
        command = [
            sys.executable, "-m", "benchmarks.fuzz.child", target.name, str(findings), str(kept),
            f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={target.most_bytes}", f"-timeout={_HANGS_AFTER_S}",
            f"-rss_limit_mb={_MOST_MB}", f"-dict={words}", f"-artifact_prefix={findings}/{target.name}-ended-",
            "-print_final_stats=1",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "TMPDIR": scratch}, check=False
        )
    if "No module named 'atheris'" in done.stderr:
        raise EnvironmentProblem("atheris is missing; `make setup` installs it on Linux x86-64. http and --quick go without it")
    return done.returncode, done.stderr


def _count(ran: Ran, said: str) -> None:
    found = list(_PROGRESS.finditer(said))
    if found:
        ran.runs += int(found[-1]["runs"])
        ran.edges = max(ran.edges, *(int(each["edges"]) for each in found))
        ran.corpus = int(found[-1]["corpus"])
    if (peak := _PEAK.search(said)) is not None:
        ran.peak_mb = max(ran.peak_mb, int(peak[1]))


def _ended(target: Target, said: str, findings: Path) -> list[Finding]:
    """What ended a process: a hang, too much memory, a crash; or a mistake in the fuzzer itself, which is raised."""
    written = re.search(r"Test unit written to (\S+)", said)
    if written is None:
        raise EnvironmentProblem(f"{target.name}: the fuzzer itself failed: {said[-2000:]}")
    why = re.search(r"SUMMARY: libFuzzer: (.*)|ERROR: libFuzzer: (.*)", said)
    words = (why[1] or why[2]) if why is not None else "the process died"
    path = Path(written[1])
    return [Finding(target.name, words, words, path.read_bytes())]


def _read(target: Target, path: Path) -> Finding:
    said, data = json.loads(path.read_text()), path.with_suffix("").read_bytes()
    return Finding(target.name, said["error"], said["place"], data)


def _drop_mended(target: Target, findings: Path) -> None:
    """Of what an earlier run has found, that which is a finding still stays."""
    for path in findings.glob(f"{target.name}-*.json"):
        if broken(target, path.with_suffix("").read_bytes()) is None:
            path.with_suffix("").unlink()
            path.unlink()
