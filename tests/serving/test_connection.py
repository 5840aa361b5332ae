"""A response is one write to its socket, whatever uvicorn does, and none of it stays behind."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.connection import joined

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """A transport that notes every write, and whether it was closed by then."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.writes.append(data)

    def close(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str) -> str:
        return f"of {name}"


def written(*steps: bytes | str) -> Wire:
    """What reaches the wire of these writes; `turn` lets the loop turn, `close` ends the connection."""
    wire = Wire()

    async def write() -> None:
        transport = joined(cast(asyncio.Transport, wire), asyncio.get_running_loop())
        for step in steps:
            if isinstance(step, bytes):
                transport.write(step)
            elif step == "close":
                transport.close()
            else:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(write())
    return wire


def test_head_and_body_are_one_write() -> None:
    assert written(HEAD, b"{}").writes == [HEAD + b"{}"]


def test_the_next_response_of_a_connection_is_one_write_too() -> None:
    assert written(HEAD, b"{}", "turn", HEAD, b"[]").writes == [HEAD + b"{}", HEAD + b"[]"]


@pytest.mark.parametrize("step", ["turn", "close"])
def test_a_head_without_a_body_does_not_stay_behind(step: str) -> None:
    wire = written(HEAD, step)
    assert wire.writes == [HEAD]
    assert wire.is_closed == (step == "close")


def test_what_is_not_written_is_the_transports_own() -> None:
    async def asked() -> object:
        return joined(cast(asyncio.Transport, Wire()), asyncio.get_running_loop()).get_extra_info("peername")

    assert asyncio.run(asked()) == "of peername"


@given(st.lists(st.one_of(st.just(HEAD), st.binary(max_size=4), st.just("turn")), max_size=12))
def test_every_byte_arrives_once_and_in_order(steps: list[bytes | str]) -> None:
    assert b"".join(written(*steps).writes) == b"".join(step for step in steps if isinstance(step, bytes))
