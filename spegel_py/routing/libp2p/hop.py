"""One hedged hop: asking the few closest peers who holds a key, waiting for no slow one longer than it is worth."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from spegel_py.errors import PeerUnreachable

FIRST_WAVE = 3
"""Peers asked at once: any of the closest knows a record, unless it has just joined."""
HEDGE_DELAY = 0.03
"""Seconds without an answer after which one more peer is asked; an answer takes 4 ms."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


async def hop(
    closest: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[Sequence[Answer]]],
    found: Callable[[Answer], bool],
) -> None:
    """Ask `closest` in order and pass each answer to `found`, which returns True when it has enough.

    Begins with FIRST_WAVE peers; every failure, and every HEDGE_DELAY seconds of silence, brings in the next one. Ends
    when as many peers as the first wave have answered, or nobody is left to ask. `ask` has a deadline of its own and
    raises PeerUnreachable.
    """
    left = list(closest)
    enough = min(FIRST_WAVE, len(left))
    send, receive = trio.open_memory_channel[Sequence[Answer] | None](math.inf)

    async def put(peer: Asked) -> None:
        try:
            answers: Sequence[Answer] | None = await ask(peer)
        except PeerUnreachable:
            answers = None
        send.send_nowait(answers)

    async with trio.open_nursery() as nursery:
        waiting = 0
        answered = 0
        wanted = enough
        while answered < enough:
            while left and wanted > waiting:
                nursery.start_soon(put, left.pop(0))
                waiting += 1
            if not waiting:
                break
            answers: Sequence[Answer] | None = None
            with trio.move_on_after(HEDGE_DELAY if left else math.inf) as slow:
                answers = await receive.receive()
                waiting -= 1
            if slow.cancelled_caught or answers is None:
                wanted = waiting + 1
                continue
            answered += 1
            wanted = waiting
            said = [found(answer) for answer in answers]
            if any(said):
                break
        nursery.cancel_scope.cancel()
