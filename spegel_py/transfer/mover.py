"""The threads that move bytes: two for all transfers of a kind, since more would only contend for the interpreter with
the event loop, while the kernel does the work outside of it.

A thread steps all moves whose sides are ready in turn, one piece each, and waits for the others' in one epoll; so a
stalled peer or a slow client costs nothing, a thousand transfers share fairly, and one that is given up ends within a
step. Where a step would wait for a disk, a thread of a small pool makes it.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from spegel_py.errors import StoreUnavailable
from spegel_py.tools.threads import ended, settle
from spegel_py.transfer.base import ClientGone
from spegel_py.transfer.moves import Move, Side

THREADS = 2
"""Threads of a mover. On loopback one moves 3 to 7 GB/s; a second lets bytes gather in sockets, so that fewer receivers
have to be woken, which is half of the CPU. With four, a manifest beside eight streams takes 33 ms, not 9 (p99)."""

NICE = 5
"""How much the event loop goes before them where processors are scarce."""

_EVENTS = {Side.SOURCE: select.EPOLLIN | select.EPOLLRDHUP, Side.CLIENT: select.EPOLLOUT}

Look = Callable[[float], float]
"""Judges a move at a monotonic time, and returns after how many seconds to look again; raises to give the move up."""


@dataclass(slots=True, eq=False)
class _Trip:
    """A move under way; but for `finished`, which belongs to the loop, the thread's alone."""

    move: Move
    loop: asyncio.AbstractEventLoop
    finished: asyncio.Future[None]
    descriptors: dict[int, Side] = field(default_factory=dict)
    is_at_disk: bool = False
    is_given_up: bool = False


class Mover:
    """Moves bytes until it is closed; `threads` start with the first of them, `disk_threads` more wait for disks."""

    def __init__(self, *, name: str, threads: int = THREADS, disk_threads: int = 1) -> None:
        self._name = name
        self._count = threads
        self._disk = ThreadPoolExecutor(disk_threads, thread_name_prefix=f"{name}-disk")
        self._threads: list[_Thread] = []
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Mover {self._name}: {self._threads}>"

    @property
    def load(self) -> int:
        """How many moves are under way."""
        return sum(thread.load for thread in self._threads)

    async def run(self, move: Move, *, look: Look) -> None:
        """Move all of it. Raises what a step raises, or a look; then, and if cancelled, only once nobody uses the
        move's descriptors any more."""
        if self._is_closed:
            raise ClientGone("this node ends")
        thread = self._living()
        loop = asyncio.get_running_loop()
        trip = _Trip(move, loop, loop.create_future())
        thread.begin(trip)
        try:
            while not trip.finished.done():
                await asyncio.wait([trip.finished], timeout=look(time.monotonic()))
        finally:
            if not trip.finished.done():
                thread.give_up(trip)
            await ended(trip.finished)
        trip.finished.result()

    def _living(self) -> _Thread:
        """Return the thread with the fewest transfers, of as many as there should be."""
        for thread in [thread for thread in self._threads if not thread.is_alive]:
            self._threads.remove(thread)
            thread.close()
        while len(self._threads) < self._count:
            self._threads.append(_Thread(name=self._name, disk=self._disk))
        return min(self._threads, key=lambda thread: thread.load)

    def close(self) -> None:
        """End what is under way, and let no more in."""
        self._is_closed = True
        while self._threads:
            self._threads.pop().close()
        self._disk.shutdown()


class _Thread:
    """The thread: told what to do by orders, which wake it; what is not an order is done inside it."""

    def __init__(self, *, name: str, disk: ThreadPoolExecutor) -> None:
        self._disk = disk
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._orders: deque[Callable[[], None]] = deque()
        self._is_closing = self._is_dead = False
        self._trips: set[_Trip] = set()
        self._by_descriptor: dict[int, _Trip] = {}
        self._ready: deque[_Trip] = deque()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"{len(self._trips)} transfers, {len(self._ready)} ready"

    @property
    def load(self) -> int:
        """How many trips it has taken up."""
        return len(self._trips)

    @property
    def is_alive(self) -> bool:
        """Whether it can take up a trip."""
        return not self._is_dead

    def begin(self, trip: _Trip) -> None:
        """Take up a trip."""
        self._trips.add(trip)  # before the order, so that the thread's death ends it too
        self._order(partial(self._begin, trip))
        if self._is_dead:
            self._end(trip, StoreUnavailable("the thread that moves bytes died"))

    def give_up(self, trip: _Trip) -> None:
        """End a trip before its time."""
        if self.is_alive:
            self._order(partial(self._give_up, trip))
        else:
            self._end(trip, None)

    def close(self) -> None:
        """End all trips and the thread."""
        self._order(self._give_all_up)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def _order(self, order: Callable[[], None]) -> None:
        if self.is_alive:  # else nothing is under way
            self._orders.append(order)
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        with suppress(OSError):  # a sandbox may not let it: then it is less quick to answer
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while not self._is_closing or self._trips:
                self._turn()
        except BaseException as error:
            self._is_dead = True
            for trip in list(self._trips):  # a bug, which must leave nobody waiting
                self._end(trip, StoreUnavailable(f"the thread that moves bytes died: {error!r}"))
            raise

    def _turn(self) -> None:
        """See what is ready, and step all of that once."""
        is_told = False
        for descriptor, _ in self._epoll.poll(0 if self._ready else -1):
            if descriptor == self._wake:
                is_told = True
            else:
                self._resume(self._by_descriptor[descriptor], descriptor)
        if is_told:  # after the others, since an order may end one of them
            self._obey()
        for _ in range(len(self._ready)):
            self._step(self._ready.popleft())

    def _obey(self) -> None:
        os.eventfd_read(self._wake)
        while self._orders:
            self._orders.popleft()()

    def _begin(self, trip: _Trip) -> None:
        trip.descriptors[trip.move.loan.fd] = Side.CLIENT
        if trip.move.source is not None:
            trip.descriptors[trip.move.source] = Side.SOURCE
        for descriptor, side in trip.descriptors.items():
            self._by_descriptor[descriptor] = trip
            # edges only: a side is waited for after a step found it not ready, so no call is needed in between
            self._epoll.register(descriptor, _EVENTS[side] | select.EPOLLET)
        self._ready.append(trip)

    def _step(self, trip: _Trip) -> None:
        if trip not in self._trips:  # given up while it was ready
            return
        try:
            side = trip.move.step()
        except Exception as error:  # noqa: BLE001 - it is raised where the move is waited for
            self._end(trip, error)
            return
        if not trip.move.left:
            self._end(trip, None)
        elif side is Side.DISK:
            trip.is_at_disk = True
            self._disk.submit(self._step_at_disk, trip)
        elif side is not None:
            trip.move.wait(side, time.monotonic())
        else:
            self._ready.append(trip)

    def _resume(self, trip: _Trip, descriptor: int) -> None:
        """Go on with a trip that waits for this side; edges that come while nobody waits are seen by the next step."""
        move = trip.move
        if move.waits.side is trip.descriptors[descriptor]:
            move.end_wait(time.monotonic())
            self._ready.append(trip)

    def _give_all_up(self) -> None:
        self._is_closing = True
        for trip in list(self._trips):
            self._give_up(trip)

    def _give_up(self, trip: _Trip) -> None:
        trip.is_given_up = True
        if not trip.is_at_disk:
            self._end(trip, ClientGone("given up"))

    def _end(self, trip: _Trip, error: Exception | None) -> None:
        if trip not in self._trips:
            return
        self._trips.discard(trip)
        trip.move.end_wait(time.monotonic())
        for descriptor in trip.descriptors:
            del self._by_descriptor[descriptor]
            self._epoll.unregister(
                descriptor
            )  # whose closing would not do it: the connection has another
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            trip.loop.call_soon_threadsafe(settle, trip.finished, None, error)

    def _step_at_disk(self, trip: _Trip) -> None:
        error: Exception | None = None
        try:
            trip.move.step(may_block=True)
        except Exception as failure:  # noqa: BLE001 - it is raised where the move is waited for
            error = failure
        self._order(partial(self._back_from_disk, trip, error))

    def _back_from_disk(self, trip: _Trip, error: Exception | None) -> None:
        trip.is_at_disk = False
        if error is not None or not trip.move.left or trip.is_given_up:
            self._end(trip, error)
        else:  # a side that was not ready at the disk may be now, and its edge gone by: the next step finds out
            self._ready.append(trip)
