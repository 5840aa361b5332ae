"""The laws of the decoders (benchmarks/fuzz/) for bytes drawn from a seed, and that a decoder which breaks one is found."""

import random
import struct
import sys
from contextlib import closing
from pathlib import Path

import google_crc32c
import pytest
import schemathesis
from schemathesis import GenerationMode

sys.path.append(str(Path(__file__).parents[1] / "serving"))

import tiny

from benchmarks.fuzz.__main__ import NAMES, names
from benchmarks.fuzz.engine import Ran, fuzz
from benchmarks.fuzz.every import TARGETS
from benchmarks.fuzz.http import Served, one_round
from benchmarks.fuzz.mutate import mutated, stream
from benchmarks.fuzz.page import MENDED, mended_of, page
from benchmarks.fuzz.target import Target, broken
from serving.app import Tokens, make_app
from serving.service import Limits, Service
from uic.bundle import Bundle
from uic.errors import BadInput
from uic.store.rocksdb import RocksStore

SEED = 1
DRAWN = 250
HEAD = b"\x00" * 8


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_keeps_its_law_for_whatever_is_drawn(name: str) -> None:
    for data in stream(TARGETS[name], DRAWN, SEED):
        assert broken(TARGETS[name], data) is None


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_drawn_is_the_same_for_a_seed_and_some_of_it_is_taken(name: str) -> None:
    """Bytes that are all refused at the first look would prove little."""
    target = TARGETS[name]
    drawn = list(stream(target, 50, SEED))
    assert drawn == list(stream(target, 50, SEED))
    assert drawn[: len(target.seeds)] == list(target.seeds)
    assert len(set(drawn)) > len(target.seeds) + 25
    assert all(len(data) <= target.most_bytes for data in drawn)


def planted() -> Target:
    """A decoder with two mistakes, both behind its checksum."""

    def check(data: bytes) -> None:
        if len(data) < 12 or google_crc32c.value(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            return
        if data[4] == 0xFF:
            raise IndexError("the first mistake")
        assert len(data) < 20, "the second mistake"

    def mend(data: bytes, draw: random.Random) -> bytes:
        return data[:-4] + struct.pack("<I", google_crc32c.value(data[:-4]))

    return Target(name="planted", law="", check=check, seeds=[mend(HEAD + b"....", random.Random(0))], mend=mend)


def test_mistakes_behind_a_checksum_are_found_and_told_apart() -> None:
    target, draw = planted(), random.Random(SEED)
    drawn = [mutated(target, target.seeds[0], draw) for _ in range(2000)]
    found = {finding.name: finding for data in drawn if (finding := broken(target, data)) is not None}
    assert {finding.error for finding in found.values()} == {
        "IndexError: the first mistake",
        "AssertionError: the second mistake",
    }
    assert all(broken(target, finding.data) == finding for finding in found.values())
    told = Ran("planted", "it never fails", seconds=60, runs=2000, findings=list(found.values()))
    written = page([told], seed=SEED, mended=MENDED)
    assert "| planted | 1.0 | 2,000 | 33 |  |  |  | 2 |" in written
    assert "IndexError: the first mistake" in written


def test_what_was_written_by_hand_stays_on_the_page() -> None:
    by_hand = f"{MENDED}\n\n- a memory was too long"
    assert mended_of(page([], seed=SEED, mended=by_hand)).strip() == by_hand
    assert mended_of("") == MENDED


def test_only_what_there_is_can_be_fuzzed() -> None:
    assert names(None) == list(NAMES)
    with pytest.raises(BadInput, match=r"--only: expected some of memory, .*, http, got blobs"):
        names("memory,blobs")


def test_coverage_leads_from_the_seeds_to_more(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="there are wheels for Linux on x86-64 alone")
    target = TARGETS["control"]
    # As an earlier run may have left it: it is no finding any more, so it goes.
    findings = tmp_path / "findings"
    findings.mkdir()
    (findings / "control-00000000").write_bytes(b'{"kind":"\xff')
    (findings / "control-00000000.json").write_text('{"error": "UnicodeDecodeError", "place": "control.py:1"}')
    ran = fuzz(target, 1.5, seed=SEED, corpus=tmp_path)
    assert ran.findings == []
    assert list(findings.iterdir()) == []
    assert ran.runs > len(target.seeds)
    assert ran.edges > 0
    assert len(list((tmp_path / "control").iterdir())) > len(target.seeds)


@pytest.mark.parametrize("mode", GenerationMode)
def test_who_has_no_token_is_told_so_and_who_has_one_is_answered_as_the_schema_says(
    tmp_path: Path, mode: GenerationMode
) -> None:
    bundle = Bundle.open(tiny.make_bundle(tmp_path / "bundle"))
    place = tiny.make_store(tmp_path / "store", bundle, {"0": tiny.memory(bundle, 0.5)})
    with (
        closing(RocksStore.open_to_read(place)) as store,
        closing(Service(bundle.path, store, place, Limits(body_bytes=600, users=2, candidates=4))) as service,
    ):
        service.load()
        app = make_app(service, Tokens(score="secret", admin="admin"), lambda facts: None)
        served = Served("guarded", schemathesis.openapi.from_asgi("/openapi.json", app), True)
        requests, finding = one_round(served, mode, seed=SEED, examples=8)
    assert finding is None
    assert requests >= 8
