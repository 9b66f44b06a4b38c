"""multistream-select in one message each way, and with sides that go line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from spegel_py.routing.libp2p.negotiation import LONGEST, NAME, NotAgreed, agree, line, propose
from tests.unit.routing.hosts import on_trio

ONE, OTHER = TProtocol("/one/1"), TProtocol("/other/1")


class _End:
    """One end of a connection in memory, with the methods of py-libp2p's."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.writes = 0

    async def write(self, data: bytes) -> None:
        self.writes += 1
        await self._stream.send_all(data)

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(n))

    async def close(self) -> None:
        await self._stream.aclose()


def _ends() -> tuple[_End, _End]:
    one, other = trio.testing.memory_stream_pair()
    return _End(one), _End(other)


@pytest.mark.parametrize(
    ("proposed", "writes"), [([ONE], (1, 1)), ([OTHER, ONE], (2, 2))], ids=["first", "second"]
)
def test_both_sides_agree(proposed: Sequence[TProtocol], writes: tuple[int, int]) -> None:
    """On the first protocol that both speak, with one message each way for each proposal."""

    async def test() -> None:
        (here, there), found = _ends(), list[tuple[TProtocol, bytes]]()

        async def accept() -> None:
            found.append(await agree(there, {ONE}, there.read))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            found.append(await propose(here, proposed, here.read))
        assert found == [(ONE, b"")] * 2
        assert (here.writes, there.writes) == writes

    on_trio(test)


def test_bytes_beyond_the_negotiation_are_given_back() -> None:
    """A side may go on at once, as an initiator with its request does."""

    async def test() -> None:
        here, there = _ends()
        await here.write(line(NAME) + line(ONE) + b"request")
        assert await agree(there, {ONE}, there.read) == (ONE, b"request")
        await there.write(b"response")
        assert await propose(here, [ONE], here.read) == (ONE, b"response")

    on_trio(test)


@pytest.mark.parametrize("is_initiator", [True, False])
def test_py_libp2p_goes_line_by_line(*, is_initiator: bool) -> None:
    """Its own sides understand ours, as initiator and as responder."""

    async def test() -> None:
        (here, there), found = _ends(), list[object]()

        async def stock() -> None:
            communicator = MultiselectCommunicator(cast("Any", there))
            if is_initiator:
                found.append(await MultiselectClient().select_one_of([OTHER, ONE], communicator))
            else:
                found.append((await Multiselect({ONE: None}).negotiate(communicator))[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stock)
            if is_initiator:
                found.append((await agree(here, {ONE}, here.read))[0])
            else:
                found.append((await propose(here, [OTHER, ONE], here.read))[0])
        assert found == [ONE, ONE]

    on_trio(test)


def test_the_list_of_protocols_is_sent() -> None:
    """Some sides ask for it before they propose one."""

    async def test() -> None:
        here, there = _ends()
        await here.write(line(NAME) + line("ls") + line(ONE))
        assert (await agree(there, [ONE, OTHER], there.read))[0] == ONE
        assert await here.read() == line(NAME) + line(f"{ONE}\n{OTHER}\n") + line(ONE)

    on_trio(test)


@pytest.mark.parametrize(
    "data",
    [
        line("/http/1.1"),
        line(NAME) + bytes([0]),
        line(NAME) + bytes([LONGEST & 127 | 128, (LONGEST >> 7) + 1]),
        line(NAME) + b"\x03abc",
        b"",
    ],
    ids=["another name", "an empty line", "a long line", "no line feed", "nothing"],
)
def test_what_is_no_negotiation_is_refused(data: bytes) -> None:
    """At once, without waiting for the rest."""

    async def test() -> None:
        here, there = _ends()
        if data:
            await here.write(data)
        else:
            await here.close()
        with pytest.raises(NotAgreed):
            await agree(there, {ONE}, there.read)

    on_trio(test)
