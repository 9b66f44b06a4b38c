"""Streams that are used before the peer has agreed to their protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p import dialling
from spegel_py.routing.libp2p.streams import MessageReader, ProposedStream, Stream, StreamPool
from tests.unit.routing.hosts import on_trio, ours, running

ECHO = TProtocol("/test/echo/1.0.0")


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Any, ID]]:
    """Run two connected hosts, of which the second echoes what is said in ECHO; yields the first,
    and whom it asks."""
    one, two = ours(), ours()

    async def echo(stream: INetStream) -> None:
        while data := await stream.read(64):
            await stream.write(data)

    async with running(two) as address, running(one):
        two.set_stream_handler(ECHO, echo)
        await dialling.dial(one, address, expected=two.get_id(), timeout=5)
        yield one, two.get_id()


def saying(message: bytes) -> Callable[[Stream], Awaitable[bytes]]:
    async def say(stream: Stream) -> bytes:
        await stream.write(message)
        return await MessageReader(stream).read_exactly(len(message))

    return say


def test_the_first_message_goes_with_the_proposal() -> None:
    """Two frames go out for a first question, the stream and all the rest, and one for the next,
    over the same."""

    async def test() -> None:
        async with asking() as (host, peer):
            [connection] = host.get_network().get_connections(peer)
            frames, write = list[bytes](), connection.muxed_conn._write_frame

            async def count(data: bytes) -> None:
                frames.append(data)
                await write(data)

            connection.muxed_conn._write_frame = count
            exchanges: StreamPool[bytes] = StreamPool(host, ECHO, timeout=5, is_known=True)
            async with exchanges.running():
                assert await exchanges.exchange(peer, saying(b"one")) == b"one"
                assert await exchanges.exchange(peer, saying(b"two")) == b"two"
            [first] = [frame for frame in frames if ECHO.encode() in frame]
            opened, *rest = [
                frame for frame in frames if frame[4:8] == first[4:8]
            ]  # of that stream, not identify's
            assert len(opened) == 12
            assert [frame[-3:] for frame in rest] == [b"one", b"two"]

    on_trio(test)


def test_a_peer_that_does_not_speak_the_protocol_is_found_out_by_its_answer() -> None:
    """That is an error which names peer and protocol, long before any deadline, and costs the
    connection nothing."""

    async def test() -> None:
        async with asking() as (host, peer):
            other: StreamPool[bytes] = StreamPool(
                host, TProtocol("/test/other/1.0.0"), timeout=20, is_known=True
            )
            exchanges: StreamPool[bytes] = StreamPool(host, ECHO, timeout=5, is_known=True)
            async with other.running(), exchanges.running():
                began = trio.current_time()
                with pytest.raises(
                    PeerUnreachable, match=f"{peer} does not speak /test/other/1.0.0"
                ):
                    await other.exchange(peer, saying(b"one"))
                assert trio.current_time() - began < 5
                assert await exchanges.exchange(peer, saying(b"two")) == b"two"

    on_trio(test)


def test_an_answer_that_comes_in_pieces_is_put_together() -> None:
    """The agreement may come byte by byte, or with the answer, of which nothing is lost."""

    async def test() -> None:
        agreement = b"\x13/multistream/1.0.0\n\x11/test/echo/1.0.0\n"
        for size in (1, 7, 100):
            stream = ProposedStream(_Pieces(agreement + b"an answer", size), ECHO)  # type: ignore[arg-type]
            await stream.write(b"question")
            got = await stream.read(2)
            while len(got) < 9:
                got += await stream.read(3)
            assert got == b"an answer"

    on_trio(test)


class _Pieces:
    """A stream that gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = data
        self._size = size

    def set_protocol(self, protocol: TProtocol) -> None:
        """Of no interest here."""

    async def write(self, data: bytes) -> None:
        assert data == b"\x13/multistream/1.0.0\n\x11/test/echo/1.0.0\nquestion"

    async def read(self, n: int | None = None) -> bytes:
        count = self._size if n is None else min(n, self._size)
        data, self._data = self._data[:count], self._data[count:]
        return data
