"""Short questions between nodes and their answers, `/spegel-py/flight/1.0.0`: on the Trio side.

A message is a length (u16, big endian) and as many bytes, MAX_WORDS of a question at most and MAX_ANSWER of an answer;
an answer of length 0 is a refusal. A stream carries one question after the other, and is kept for a while, since making
one takes two more frames each way. Who asks is the peer that the Noise handshake of the connection authenticated.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from spegel_py.errors import PeerRefused
from spegel_py.routing.base import MAX_ANSWER, MAX_WORDS, Answerer
from spegel_py.routing.libp2p.streams import Exchanges, MessageReader, Stream

PROTOCOL = TProtocol("/spegel-py/flight/1.0.0")
TIMEOUT = 2.0
"""Seconds for one exchange, whoever waits for it: a live peer answers in 4 ms, a stopped one never."""
IDLE_TIMEOUT = 60.0
"""Seconds for which a peer may keep a stream open without asking."""
KEPT = 4
"""Streams kept to one peer: the layers of an image are asked for at the same time."""

_LENGTH = struct.Struct(">H")


class Answers:
    """Answers peers' questions with `answer`; what is none is counted by `dropped`."""

    def __init__(self, answer: Answerer, dropped: Callable[[str], None]) -> None:
        self._answer = answer
        self._dropped = dropped

    async def handle(self, stream: INetStream) -> None:
        """Answer every question of one stream; what is too long or breaks off ends this stream only."""
        peer, reader = str(stream.muxed_conn.peer_id), MessageReader(stream)
        try:
            while True:
                reader.begin()
                with trio.fail_after(IDLE_TIMEOUT):
                    question = await _receive(reader, MAX_WORDS)
                with trio.fail_after(TIMEOUT):
                    await stream.write(_frame(self._answered(peer, question)))
        except trio.TooSlowError:
            await stream.reset()
        except PeerRefused:
            self._dropped("oversized-frame")
            await stream.reset()
        except StreamError:
            if reader.is_within:
                self._dropped("half-frame")
            await stream.close()

    def _answered(self, peer: str, question: bytes) -> bytes:
        try:
            return self._answer(peer, question)
        except ValueError:
            self._dropped("malformed-question")
            return b""


class Questions:
    """Asks peers."""

    def __init__(self, host: BasicHost) -> None:
        self._exchanges: Exchanges[bytes] = Exchanges(
            host, PROTOCOL, timeout=TIMEOUT, most=KEPT, is_known=True
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Questions]:
        """Ask for callers while the block lasts; exchanges under way are given up at its end."""
        async with self._exchanges.running():
            yield self

    async def ask(self, peer: ID, question: bytes) -> bytes:
        """Return the answer. Raises PeerRefused, PeerUnreachable."""

        async def ask(stream: Stream) -> bytes:
            await stream.write(_frame(question))
            return await _receive(MessageReader(stream), MAX_ANSWER)

        if not (answer := await self._exchanges.ask(peer, ask)):
            raise PeerRefused(f"{peer} does not answer this", status=400)
        return answer


def _frame(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


async def _receive(reader: MessageReader, most: int) -> bytes:
    (length,) = _LENGTH.unpack(await reader.read_exactly(_LENGTH.size))
    if length > most:
        raise PeerRefused(f"a message of {length} bytes", status=400)
    return await reader.read_exactly(length)
