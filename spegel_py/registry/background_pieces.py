"""Bodies of background transfers, sent in pieces between which runtimes' pulls may go first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from spegel_py.oci.distribution import PullClient
from spegel_py.oci.range import ByteSpan

PIECE = 256 * 1024
"""Bytes that are sent at once in the background. They hold a pull up if they are on their way when
it begins: on a link of 200 mbit for 10 ms."""

Gate = Callable[[], Awaitable[None]]
"""Returns when the next bytes may be sent in the background."""


async def open_gate() -> None:
    """Return at once."""


async def pieces(client: PullClient, span: ByteSpan, gate: Gate) -> AsyncIterator[ByteSpan]:
    """Yield the parts of a span that are sent at once; `gate` is awaited before each in the
    background.
    """
    start, length = span
    if not client.is_background:
        yield span
        return
    for at in range(0, length, PIECE):
        await gate()
        yield start + at, min(PIECE, length - at)
