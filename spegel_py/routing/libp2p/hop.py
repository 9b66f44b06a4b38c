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
PATIENCE = 0.15
"""Seconds for which a silent peer of the first wave is waited for when enough others have answered: it is closest to
the key, and may be the only one that knows."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


async def hop(
    closest: Sequence[Asked],
    ask: Callable[[Asked], Awaitable[Sequence[Answer]]],
    found: Callable[[Answer], bool],
) -> None:
    """Ask `closest` in order and pass each answer to `found`, which returns True when it has enough.

    Begins with FIRST_WAVE peers; every failure, and every HEDGE_DELAY seconds of silence, brings in the next one. Ends
    when as many as the first wave have answered, nobody of which is silent still (after PATIENCE that does not matter);
    or when nobody is left to ask. `ask` has a deadline of its own, raises PeerUnreachable, and may be cancelled.
    """
    left = list(closest)
    first = set(range(min(FIRST_WAVE, len(left))))
    enough = len(first)
    send, receive = trio.open_memory_channel[tuple[int, Sequence[Answer] | None]](math.inf)
    start = trio.current_time()

    async def put(number: int, peer: Asked) -> None:
        try:
            answers: Sequence[Answer] | None = await ask(peer)
        except PeerUnreachable:
            answers = None
        send.send_nowait((number, answers))

    async with trio.open_nursery() as nursery:
        asked = waiting = answered = 0
        wanted = enough
        while answered < enough or (first and trio.current_time() < start + PATIENCE):
            while left and wanted > waiting:
                nursery.start_soon(put, asked, left.pop(0))
                asked, waiting = asked + 1, waiting + 1
            if not waiting:
                break
            answer = None
            with trio.move_on_after(
                HEDGE_DELAY if left or answered >= enough else math.inf
            ) as slow:
                answer = await receive.receive()
            if slow.cancelled_caught or answer is None:
                wanted = waiting + 1
                continue
            number, answers = answer
            waiting -= 1
            first.discard(number)
            wanted = waiting + (answers is None)
            answered += answers is not None
            said = [found(each) for each in answers or ()]
            if any(said):
                break
        nursery.cancel_scope.cancel()
