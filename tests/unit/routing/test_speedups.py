"""A lock that costs nothing where it is free."""

from __future__ import annotations

import trio
import trio.testing

from spegel_py.routing.libp2p.speedups import FastLock
from tests.unit.routing.hosts import on_trio


def test_a_free_lock_lets_nobody_else_run_first() -> None:
    """A task that takes and releases it goes on at once."""

    async def test() -> None:
        lock, ran = FastLock(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
            nursery.start_soon(_set, ran)
            async with lock:
                pass
            assert not ran.is_set()

    on_trio(test)


def test_who_comes_first_gets_it_first_and_nobody_else_meanwhile() -> None:
    """One at a time, in the order of coming."""

    async def test() -> None:
        lock, order, inside = FastLock(), list[int](), 0

        async def enter(number: int) -> None:
            nonlocal inside
            async with lock:
                inside += 1
                assert inside == 1
                order.append(number)
                await trio.sleep(0)
                inside -= 1

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(enter, number)
                await trio.testing.wait_all_tasks_blocked()
        assert sorted(order) == list(range(5))

        order.clear()
        await lock.acquire()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(enter, number)
                await trio.testing.wait_all_tasks_blocked()
            lock.release()
        assert order == list(range(5))

    on_trio(test)


def test_who_gives_up_waiting_is_passed_over() -> None:
    """A cancelled wait neither takes the lock nor keeps it from the next."""

    async def test() -> None:
        lock, got = FastLock(), trio.Event()
        await lock.acquire()

        async def take() -> None:
            async with lock:
                got.set()

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.01) as scope:
                await lock.acquire()
            assert scope.cancelled_caught
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            assert not got.is_set()
            lock.release()
        assert got.is_set()
        with trio.fail_after(1):
            await lock.acquire()

    on_trio(test)


async def _set(event: trio.Event) -> None:
    event.set()
