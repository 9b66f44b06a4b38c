"""The threads that move bytes: two for all transfers of a kind.

More threads would only contend with the event loop for the interpreter, while the kernel does the
work outside of it.

A thread steps in turn all moves whose sides are ready, one piece each. For the sides that are not
ready it waits in one epoll. So a stalled peer or a slow client costs nothing, a thousand transfers
share fairly, and a cancelled transfer ends within a step. Where a step would wait for a disk, a
thread of a small pool makes it.
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
from spegel_py.tools.cancellation import ended
from spegel_py.tools.threads import settle
from spegel_py.transfer.base import ClientGone
from spegel_py.transfer.moves import Move, Side

THREADS = 2
"""Threads of a mover.

On loopback one thread moves 3 to 7 GB/s. A second one lets bytes gather in sockets, so that fewer
receivers are woken, which is half of the CPU. With four threads a manifest beside eight streams
takes 33 ms instead of 9 ms (p99).
"""

NICE = 5
"""Niceness of the threads: the event loop goes first where processors are scarce."""

_EVENTS = {Side.SOURCE: select.EPOLLIN | select.EPOLLRDHUP, Side.CLIENT: select.EPOLLOUT}

Check = Callable[[float], float]
"""Checks a move at a monotonic time; returns the seconds until the next check.

An error that it raises cancels the move.
"""


@dataclass(slots=True, eq=False)
class _Transfer:
    """A move under way. Only the thread uses it, but for `finished`, which belongs to the loop."""

    move: Move
    loop: asyncio.AbstractEventLoop
    finished: asyncio.Future[None]
    descriptors: dict[int, Side] = field(default_factory=dict)
    is_at_disk: bool = False
    is_cancelled: bool = False


class Mover:
    """Moves bytes until it is closed.

    Its `threads` start with the first transfer; `disk_threads` more threads wait for disks.
    """

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
        """Number of moves under way."""
        return sum(thread.load for thread in self._threads)

    async def run(self, move: Move, *, check: Check) -> None:
        """Move all bytes. Raises the errors of a step or of `check`.

        This returns, even after an error or if cancelled, only once no thread uses the move's
        descriptors any more.
        """
        if self._is_closed:
            raise ClientGone("this node ends")
        thread = self._thread_for_next()
        loop = asyncio.get_running_loop()
        transfer = _Transfer(move, loop, loop.create_future())
        thread.begin(transfer)
        try:
            while not transfer.finished.done():
                await asyncio.wait([transfer.finished], timeout=check(time.monotonic()))
        finally:
            if not transfer.finished.done():
                thread.cancel(transfer)
            await ended(transfer.finished)
        transfer.finished.result()

    def _thread_for_next(self) -> _Thread:
        """Return the living thread with the fewest transfers, starting threads that are missing."""
        for thread in [thread for thread in self._threads if not thread.is_alive]:
            self._threads.remove(thread)
            thread.close()
        while len(self._threads) < self._count:
            self._threads.append(_Thread(name=self._name, disk=self._disk))
        return min(self._threads, key=lambda thread: thread.load)

    def close(self) -> None:
        """End all transfers under way, and refuse new ones."""
        self._is_closed = True
        while self._threads:
            self._threads.pop().close()
        self._disk.shutdown()


class _Thread:
    """One thread. Others give it commands, which wake it; all other methods run inside it."""

    def __init__(self, *, name: str, disk: ThreadPoolExecutor) -> None:
        self._disk = disk
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._commands: deque[Callable[[], None]] = deque()
        self._is_closing = self._is_dead = False
        self._transfers: set[_Transfer] = set()
        self._by_descriptor: dict[int, _Transfer] = {}
        self._ready: deque[_Transfer] = deque()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"{len(self._transfers)} transfers, {len(self._ready)} ready"

    @property
    def load(self) -> int:
        """Number of transfers of this thread."""
        return len(self._transfers)

    @property
    def is_alive(self) -> bool:
        """Whether the thread can take a transfer."""
        return not self._is_dead

    def begin(self, transfer: _Transfer) -> None:
        """Take a transfer."""
        self._transfers.add(transfer)  # before the command, so that the thread's death ends it too
        self._command(partial(self._begin, transfer))
        if self._is_dead:
            self._end(transfer, StoreUnavailable("the thread that moves bytes died"))

    def cancel(self, transfer: _Transfer) -> None:
        """End a transfer early."""
        if self.is_alive:
            self._command(partial(self._cancel, transfer))
        else:
            self._end(transfer, None)

    def close(self) -> None:
        """End all transfers and the thread."""
        self._command(self._cancel_all)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def _command(self, command: Callable[[], None]) -> None:
        if self.is_alive:  # else no transfer is under way
            self._commands.append(command)
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        with suppress(OSError):  # a sandbox may forbid it: then the event loop answers later
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while not self._is_closing or self._transfers:
                self._turn()
        except BaseException as error:
            self._is_dead = True
            for transfer in list(self._transfers):  # a bug, which must leave no caller waiting
                self._end(
                    transfer, StoreUnavailable(f"the thread that moves bytes died: {error!r}")
                )
            raise

    def _turn(self) -> None:
        """Poll once, and step each transfer that is ready once."""
        has_commands = False
        for descriptor, _ in self._epoll.poll(0 if self._ready else -1):
            if descriptor == self._wake:
                has_commands = True
            else:
                self._resume(self._by_descriptor[descriptor], descriptor)
        if has_commands:  # after the transfers, since a command may end one of them
            self._run_commands()
        for _ in range(len(self._ready)):
            self._step(self._ready.popleft())

    def _run_commands(self) -> None:
        os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()

    def _begin(self, transfer: _Transfer) -> None:
        transfer.descriptors[transfer.move.lease.fd] = Side.CLIENT
        if transfer.move.source is not None:
            transfer.descriptors[transfer.move.source] = Side.SOURCE
        for descriptor, side in transfer.descriptors.items():
            self._by_descriptor[descriptor] = transfer
            # Edges only: a side is waited for after a step found it not ready, so no system call is
            # needed between two steps.
            self._epoll.register(descriptor, _EVENTS[side] | select.EPOLLET)
        self._ready.append(transfer)

    def _step(self, transfer: _Transfer) -> None:
        if transfer not in self._transfers:  # cancelled while it was ready
            return
        try:
            side = transfer.move.step()
        except Exception as error:  # noqa: BLE001 - it is raised where the move is waited for
            self._end(transfer, error)
            return
        if not transfer.move.left:
            self._end(transfer, None)
        elif side is Side.DISK:
            transfer.is_at_disk = True
            self._disk.submit(self._step_at_disk, transfer)
        elif side is not None:
            transfer.move.wait(side, time.monotonic())
        else:
            self._ready.append(transfer)

    def _resume(self, transfer: _Transfer, descriptor: int) -> None:
        """Go on with a transfer that waits for this side.

        An edge that comes while no transfer waits is found by the next step.
        """
        move = transfer.move
        if move.waits.side is transfer.descriptors[descriptor]:
            move.end_wait(time.monotonic())
            self._ready.append(transfer)

    def _cancel_all(self) -> None:
        self._is_closing = True
        for transfer in list(self._transfers):
            self._cancel(transfer)

    def _cancel(self, transfer: _Transfer) -> None:
        transfer.is_cancelled = True
        if not transfer.is_at_disk:
            self._end(transfer, ClientGone("cancelled"))

    def _end(self, transfer: _Transfer, error: Exception | None) -> None:
        if transfer not in self._transfers:
            return
        self._transfers.discard(transfer)
        transfer.move.end_wait(time.monotonic())
        for descriptor in transfer.descriptors:
            del self._by_descriptor[descriptor]
            # closing it would not do that: the connection has another descriptor
            self._epoll.unregister(descriptor)
        with suppress(RuntimeError):  # the loop was closed
            transfer.loop.call_soon_threadsafe(settle, transfer.finished, None, error)

    def _step_at_disk(self, transfer: _Transfer) -> None:
        error: Exception | None = None
        try:
            transfer.move.step(may_block=True)
        except Exception as failure:  # noqa: BLE001 - it is raised where the move is waited for
            error = failure
        self._command(partial(self._back_from_disk, transfer, error))

    def _back_from_disk(self, transfer: _Transfer, error: Exception | None) -> None:
        transfer.is_at_disk = False
        if error is not None or not transfer.move.left or transfer.is_cancelled:
            self._end(transfer, error)
        else:
            # A side that was not ready may be ready by now, and its edge missed: try another step.
            self._ready.append(transfer)
