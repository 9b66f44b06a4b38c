"""multistream-select 1.0.0 with one message each way, where the other side allows it (trap 23).

Both sides send the name of the protocol itself first. The initiator then proposes a protocol, and
the other side repeats it or answers `na`. An initiator need not wait for anything before it
proposes, and the other side may answer both lines at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol

from libp2p.custom_types import TProtocol

AT_ONCE = 4096
"""Bytes read at once: a line has a few dozen."""
LONGEST = 1024
"""Bytes of a line: the names of protocols are short."""
MOST_PROPOSALS = 32
"""Protocols that the other side may propose for one stream."""

NAME = "/multistream/1.0.0"
_REFUSED = "na"
_LIST = "ls"


class NotAgreed(Exception):
    """The two sides have no protocol in common, or the other side does not negotiate."""


class Conversation(Protocol):
    """A stream or a connection on which a protocol is negotiated."""

    async def write(self, data: bytes) -> None: ...


def line(text: str) -> bytes:
    """Return a line as it is sent: its length, the text, and a line feed."""
    data = text.encode() + b"\n"
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])


class _Lines:
    """The lines that have come. `read` returns some bytes, none at the end."""

    def __init__(self, read: Callable[[], Awaitable[bytes]]) -> None:
        self._read = read
        self.rest = bytearray()

    def has_one(self) -> bool:
        """Return True if a whole line has come."""
        return self._end() > 0

    async def next(self) -> str:
        """Return the next line. Raises NotAgreed."""
        while not (end := self._end()):
            data = await self._read()
            if not data:
                raise NotAgreed("the other side has closed")
            self.rest += data
        start = 1 if self.rest[0] < 128 else 2
        text = bytes(self.rest[start:end])
        del self.rest[:end]
        if not text.endswith(b"\n"):
            raise NotAgreed("a line without its end")
        return text[:-1].decode(errors="replace")

    def _end(self) -> int:
        """Return where the first line ends, 0 if that has not come. Raises NotAgreed."""
        rest = self.rest
        if not rest or (rest[0] >= 128 and len(rest) < 2):
            return 0
        start = 1 if rest[0] < 128 else 2
        length = rest[0] if start == 1 else (rest[0] & 127) | rest[1] << 7
        if length > LONGEST or not length:
            raise NotAgreed(f"a line of {length} bytes")
        return start + length if len(rest) >= start + length else 0


async def propose(
    conversation: Conversation,
    protocols: Sequence[TProtocol],
    read: Callable[[], Awaitable[bytes]],
) -> tuple[TProtocol, bytes]:
    """Return the first of the protocols that the other side accepts, and bytes read beyond.

    Raises NotAgreed.
    """
    await conversation.write(line(NAME) + line(protocols[0]))
    lines = _Lines(read)
    if (name := await lines.next()) != NAME:
        raise NotAgreed(f"the other side speaks {name[:80]!r}")
    for number, protocol in enumerate(protocols):
        if number:
            await conversation.write(line(protocol))
        answer = await lines.next()
        if answer == NAME:  # go-libp2p may begin again
            answer = await lines.next()
        if answer == protocol:
            return protocol, bytes(lines.rest)
        if answer != _REFUSED:
            raise NotAgreed(f"{answer[:80]!r} is no answer")
    raise NotAgreed(f"the other side speaks none of {', '.join(protocols)}")


async def agree(
    conversation: Conversation,
    known: Collection[Any],
    read: Callable[[], Awaitable[bytes]],
) -> tuple[TProtocol, bytes]:
    """Return the protocol that the other side proposes and this node knows, and bytes read beyond.

    Raises NotAgreed.
    """
    lines, reply = _Lines(read), line(NAME)
    if (name := await lines.next()) != NAME:
        raise NotAgreed(f"the other side speaks {name[:80]!r}")
    for _ in range(MOST_PROPOSALS):
        if reply and not lines.has_one():  # it may wait for this side's name
            await conversation.write(reply)
            reply = b""
        proposed = await lines.next()
        if proposed in known:
            await conversation.write(reply + line(proposed))
            return TProtocol(proposed), bytes(lines.rest)
        if proposed == _LIST:
            reply += line("\n".join(str(each) for each in known if each) + "\n")
        else:
            reply += line(_REFUSED)
    raise NotAgreed(f"more than {MOST_PROPOSALS} proposals")
