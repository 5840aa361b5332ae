"""Letters sent back to where events come from, each once: into the events topic, or as one more event file.

What was sent is remembered after it has arrived, so a kill in between repeats letters rather than loses any; the job drops what
it still knows by its fingerprints.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jobs.letter_topics import Kind, LetterTopics, Replayed, TopicLetter
from jobs.produce import Headers, Sender
from jobs.settings import KafkaSettings
from uic.artefact import write_atomically
from uic.errors import BadInput
from uic.event import MAX_EVENT_BYTES
from uic.letters import Letter, LetterBox

ACCEPT_LATE: Headers = [("accept-late", b"1")]
REMEMBERED = "replayed.json"
_BATCH = 1000


def refuse_late(kind: str, *, accept_late: bool) -> None:
    """Raise BadInput where what is replayed would come back at once."""
    if kind == "late" and not accept_late:
        raise BadInput(
            "--kind late: these events came too late and would be late again; "
            "with --accept-late they are applied however late they are"
        )


def to_topic(
    kafka: KafkaSettings,
    kind: Kind,
    *,
    reason: str | None = None,
    accept_late: bool = False,
    limit: int | None = None,
    dry_run: bool = False,
    on_batch: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Send the letters not yet replayed to the events topic, with their original key and bytes; returns how many by reason.

    With `accept_late` every event carries the header that lets the job apply it whatever its time. `on_batch` is called
    after each batch is acknowledged and before that is remembered.
    """
    refuse_late(kind, accept_late=accept_late)
    sent: Counter[str] = Counter()
    # A job that went back to a checkpoint writes letters again: same place in the log, same time of the log.
    seen: set[tuple[str, str, str]] = set()
    headers = ACCEPT_LATE if accept_late else None
    sender = None if dry_run else Sender(kafka)
    with LetterTopics(kafka) as topics:
        for partition in topics.partitions(kind):
            done = topics.replayed(kind, partition)
            position = begin = done.begin(reason)
            pending = 0
            for letter in topics.letters(kind, partition, begin):
                if reason in (None, letter.reason) and not done.covers(letter) and not _is_again(letter, seen):
                    if limit is not None and sent.total() >= limit:
                        break
                    if sender is not None:
                        sender.send(letter.key, letter.payload, headers)
                    sent[letter.reason] += 1
                    pending += 1
                position = letter.position + 1
                if sender is not None and pending >= _BATCH:
                    _remember(topics, sender, kind, partition, done, reason, position, on_batch)
                    pending = 0
            if sender is not None and position > begin:
                _remember(topics, sender, kind, partition, done, reason, position, on_batch)
    return sent


def to_file(
    job_dir: Path, out: Path, *, kind: Kind, reason: str | None = None, accept_late: bool = False, limit: int | None = None
) -> tuple[int, int]:
    """Write the letters of an embedded job that were not yet replayed as one more event file.

    Returns how many were written, and how many could not be because only their beginning was kept.
    """
    refuse_late(kind, accept_late=accept_late)
    box = LetterBox(job_dir / "letters.sqlite", writable=False)
    try:
        _check_name(out, job_dir, {letter.source for letter in box.letters()})
        known = _remembered(job_dir)
        chosen: list[Letter] = []
        cut = 0
        for letter in box.letters(kind, reason):
            if (letter.source, letter.offset) in known:
                continue
            if len(letter.payload) > MAX_EVENT_BYTES:
                cut += 1
                continue
            if limit is not None and len(chosen) >= limit:
                break
            chosen.append(letter)
    finally:
        box.close()
    if chosen:
        partial = out.with_name(f".{out.name}.{os.getpid()}")
        with partial.open("wb") as file:
            file.writelines(letter.payload.rstrip(b"\r\n") + b"\n" for letter in chosen)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(out)
        places = sorted(known | {(letter.source, letter.offset) for letter in chosen})
        write_atomically(job_dir / REMEMBERED, json.dumps(places) + "\n")
    return len(chosen), cut


def _remember(
    topics: LetterTopics,
    sender: Sender,
    kind: Kind,
    partition: int,
    done: Replayed,
    reason: str | None,
    position: int,
    on_batch: Callable[[], None],
) -> None:
    sender.flush()
    on_batch()
    done.advance(reason, position)
    topics.commit(kind, partition, done)


def _is_again(letter: TopicLetter, seen: set[tuple[str, str, str]]) -> bool:
    place = (letter.source, letter.offset, letter.log_time_ms)
    if place in seen:
        return True
    if all(place):
        seen.add(place)
    return False


def _check_name(out: Path, job_dir: Path, sources: set[str]) -> None:
    """The job reads files by name and never goes back: a new one must come after all others."""
    if out.suffix != ".jsonl":
        raise BadInput(f"--out: {out}: expected an event file, NAME.jsonl")
    if out.exists():
        raise BadInput(f"--out: {out}: there is such a file already; choose another name")
    record = job_dir / "job.json"
    folder = Path(json.loads(record.read_text())["events"]) if record.is_file() else out.parent
    if out.absolute().parent.resolve() != folder.resolve():
        raise BadInput(f"--out: {out}: the job reads its events from {folder}; write the file there")
    if not folder.is_dir():
        raise BadInput(f"--out: {folder}: expected the folder of the job's event files, but there is none")
    last = max({path.name for path in folder.glob("*.jsonl")} | sources, default="")
    if out.name <= last:
        raise BadInput(
            f"--out: {out.name} sorts before {last}, and the job reads files in the order of their names; "
            f"choose a later one, such as z{last}"
        )


def _remembered(job_dir: Path) -> set[tuple[str, int]]:
    path = job_dir / REMEMBERED
    try:
        return {(source, offset) for source, offset in json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: which letters were replayed cannot be read: {error}") from error
