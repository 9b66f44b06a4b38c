"""Who is let in next."""

from __future__ import annotations

import asyncio

from spegel_py.transfer.turns import Turns


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_owners_take_turns() -> None:
    """One who waits with fifty is let in once before another's first, not fifty times."""
    turns, order = Turns(1), list[str]()

    async def transfer(owner: str) -> None:
        async with turns.turn(owner):
            order.append(owner)

    async with turns.turn("first"):
        tasks = [asyncio.ensure_future(transfer("greedy")) for _ in range(50)]
        await settle()
        tasks += [asyncio.ensure_future(transfer(owner)) for owner in ("a", "b", "a")]
        await settle()
    await asyncio.gather(*tasks)
    assert order[:5] == ["greedy", "a", "b", "greedy", "a"]
    assert len(order) == 53


async def test_no_more_are_in_than_there_are_turns() -> None:
    """However many come, so many are in at a time."""
    turns, inside, most = Turns(3), 0, 0

    async def transfer(number: int) -> None:
        nonlocal inside, most
        async with turns.turn(str(number % 4)):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*[transfer(number) for number in range(40)])
    assert (most, inside) == (3, 0)


async def test_a_turn_is_not_lost_with_one_who_no_longer_waits() -> None:
    """Cancelled while waiting, or just when let in, a transfer leaves its turn to the next."""
    turns, entered = Turns(1), asyncio.Event()

    async def transfer() -> None:
        async with turns.turn("a"):
            entered.set()

    async with turns.turn("first"):
        waiting, granted, last = (asyncio.ensure_future(transfer()) for _ in range(3))
        await settle()
        waiting.cancel()
        await settle()
    granted.cancel()  # its turn was given a moment ago, but it did not run since
    await asyncio.wait([waiting, granted, last])
    assert waiting.cancelled()
    assert granted.cancelled()
    assert entered.is_set()
    assert repr(turns) == "<Turns free=1 waiting={}>"
