"""What must hold after any fault, checked by four ways that do not lean on each other.

* every user's memory equals the offline fold of the events topic (`uic verify --kafka`)
* every user's sequence is the number of events that the generator counted for them
* the store holds the very bytes that a savepoint of the job holds, or where it keeps small numbers the copies of them
* each event that must be late or dead is in its topic with its reason (an event may be there twice: at least once)
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.checkpoints import form_of, memories_of
from jobs.settings import KafkaSettings
from uic.bundle import Bundle
from uic.codec import read_header
from uic.small import Shrink
from uic.store.sharded import open_to_read
from uic.synthetic.block import user_id
from uic.synthetic.spec import SyntheticSpec
from uic.synthetic.tally import Tally

_MOST_SHOWN = 5


@dataclass
class Proof:
    """What was compared, and everything that does not hold."""

    users: int = 0
    applied: int = 0
    left: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.wrong


def prove(
    kafka: KafkaSettings,
    bundle: Path,
    store: Path,
    savepoint: Path,
    tally: Tally,
    spec: SyntheticSpec,
    environment: Mapping[str, str],
) -> Proof:
    """Apply what is left of the snapshots topic, then compare."""
    proof = Proof()
    uic = [sys.executable, "-m", "jobs.cli"]
    stored = ["--bundle", str(bundle), "--store", str(store)]
    _run(proof, [*uic, "store", "follow", *stored, "--until-end"], environment)
    _run(proof, [*uic, "verify", "--kafka", *stored, "--lateness-s", str(spec.lateness_ms // 1000)], environment)
    opened = open_to_read(store)
    try:
        blobs = {user: blob for user in opened.users() if (blob := opened.read(user)) is not None}
        numbers = opened.numbers
    finally:
        opened.close()
    _check_sequences(proof, blobs, tally)
    _check_state(proof, blobs, Shrink(numbers, Bundle.open(bundle).layout), bundle, savepoint)
    _check_letters(proof, kafka, tally)
    return proof


def _run(proof: Proof, command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-800:]
        proof.wrong.append(f"uic {' '.join(command[3:5])}: exit code {done.returncode}: {said}")


def _check_sequences(proof: Proof, blobs: Mapping[str, bytes], tally: Tally) -> None:
    expected = {user_id(number): count for number, count in enumerate(tally.applied.tolist()) if count}
    found = {user: read_header(blob).sequence for user, blob in blobs.items()}
    proof.users, proof.applied = len(found), sum(found.values())
    differing = [user for user in expected.keys() | found.keys() if expected.get(user, 0) != found.get(user, 0)]
    for user in sorted(differing)[:_MOST_SHOWN]:
        proof.wrong.append(f"user {user}: {found.get(user, 0)} events applied, expected {expected.get(user, 0)}")
    if len(differing) > _MOST_SHOWN:
        proof.wrong.append(f"and {len(differing) - _MOST_SHOWN} users more")


def _check_state(proof: Proof, blobs: Mapping[str, bytes], shrink: Shrink, bundle: Path, savepoint: Path) -> None:
    form = form_of(bundle)
    assert form is not None  # the bundle was opened before
    state = Counter(shrink(list(memories_of(savepoint, form))))
    store = Counter(blobs.values())
    if state != store:
        proof.wrong.append(
            f"{savepoint}: {(state - store).total()} memories of the state are not in the store, "
            f"{(store - state).total()} of the store not in the state"
        )


def _check_letters(proof: Proof, kafka: KafkaSettings, tally: Tally) -> None:
    from jobs.letter_topics import Kind, LetterTopics

    kinds: tuple[Kind, ...] = ("late", "dead")

    reasons: Counter[str] = Counter()
    with LetterTopics(kafka) as topics:
        for kind in kinds:
            partitions = topics.partitions(kind)
            letters = {(each.source, each.offset): each.reason for part in partitions for each in topics.letters(kind, part)}
            proof.left[kind] = len(letters)
            reasons.update(letters.values())
    expected = Counter(tally.dead)
    if tally.outcomes["late"]:
        expected["late"] = tally.outcomes["late"]
    if reasons != expected:
        proof.wrong.append(f"letters: {dict(reasons - expected)} too many, {dict(expected - reasons)} missing")
