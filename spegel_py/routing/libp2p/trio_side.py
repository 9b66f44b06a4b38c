"""The Trio side's lives, one after the other: a dead or hung one is replaced, with back-off."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

import structlog

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import Life
from spegel_py.tools.threads import run_detached

if TYPE_CHECKING:
    from spegel_py.routing.libp2p.service import Service
    from spegel_py.routing.libp2p.thread import TrioThread

log = structlog.get_logger(__name__)

RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before starting the Trio side again, by its deaths in a row; the last one repeats."""
STEADY_AFTER = 60.0
"""Seconds of life after which a death counts as the first one again."""
FRESH = 1.5
"""Seconds for which a round of the Trio side shows that it does not hang: it makes one a second."""
STOP_TIMEOUT = 4.0
"""Seconds for goodbyes and closing at the end."""

T = TypeVar("T")


class TrioSide:
    """Starts, calls and restarts the Trio side.

    Args:
        make: returns the service of a new life.
        on_up: is called when a new life is up.
        on_down: is called when a life has ended.
    """

    def __init__(
        self,
        *,
        make: Callable[[], Service],
        on_up: Callable[[], Awaitable[None]],
        on_down: Callable[[], None],
    ) -> None:
        self._make = make
        self._on_up = on_up
        self._on_down = on_down
        self._thread: TrioThread | None = None
        self.service: Service | None = None
        self.life = Life(number=0, is_up=False, since=time.monotonic())
        self._life_changed = asyncio.Event()
        self._given_up = asyncio.Event()
        self._calls: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<TrioSide {'up' if self._thread else 'down'}, life {self.life.number}>"

    async def start(self) -> TrioThread:
        """Start a new life, and return its thread once it is up. Raises the start's error."""
        await run_detached(_load, name="libp2p-import")
        from spegel_py.routing.libp2p.thread import TrioThread

        service = self._make()
        thread = TrioThread(service.run)
        try:
            await thread.start()
        except asyncio.CancelledError:  # this node is told to stop before it is up
            thread.abandon()
            raise
        self.service, self._thread = service, thread
        number = self.life.number + 1
        self._set_life(replace(self.life, number=number, is_up=True, since=time.monotonic()))
        await self._on_up()
        log.info("libp2p up", addresses=service.addresses())
        return thread

    async def keep_up(self, thread: TrioThread) -> None:
        """Replace each life that ends by a new one, until cancelled."""
        deaths = 0
        while True:
            born = time.monotonic()
            death = await self._end_of(thread)
            self.service = self._thread = None
            self._on_down()
            died = time.monotonic()
            self._set_life(
                replace(self.life, is_up=False, since=died, died=died, cause=repr(death))
            )
            deaths = 1 if died - born > STEADY_AFTER else deaths + 1
            log.error(
                "libp2p side died; serving local content only until it is up again",
                error=repr(death),
            )
            while True:
                await asyncio.sleep(RESTART_DELAYS[min(deaths, len(RESTART_DELAYS)) - 1])
                try:
                    thread = await self.start()
                    break
                except Exception as error:  # noqa: BLE001 - the node must go on and try again
                    deaths += 1
                    log.debug("libp2p side did not start", error=repr(error))

    async def stop(self) -> None:
        """End the present life in good order."""
        if self._thread is not None:
            await self._thread.stop(timeout=STOP_TIMEOUT)
        self.service = self._thread = None
        self._on_down()

    # Calls

    async def call(self, method: Callable[[Service], Awaitable[T]]) -> T:
        """Return the result of a method of the service. Raises RouterUnavailable if it is down."""
        service, thread = self.service, self._thread
        if service is None or thread is None:
            raise RouterUnavailable("the libp2p side is not running")
        return await thread.call(partial(method, service))

    async def call_if_up(self, method: Callable[[Service], Awaitable[None]]) -> None:
        """Call a method of the service, unless it is down: a new life gets the same state."""
        try:
            await self.call(method)
        except RouterUnavailable:
            log.debug("libp2p side is down; it will be told when it is up again")

    def call_soon(self, method: Callable[[Service], Awaitable[None]]) -> None:
        """Call a method of the service unless it is down, and do not wait for it."""
        task = asyncio.ensure_future(self.call_if_up(method))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def ping(self) -> None:
        """Return once the Trio side has answered; never if it hangs.

        It need not be asked if it went round within FRESH seconds. Raises RouterUnavailable if it
        is down.
        """
        if self._thread is None:
            raise RouterUnavailable("the libp2p side is not running")
        if self.service is not None and time.monotonic() - self.service.beat_at < FRESH:
            return
        await self._thread.ping()

    # Lives

    async def restart(self) -> None:
        """Return once a new life is up. The present one may hang: its sockets are shut."""
        number = self.life.number
        if self.life.is_up:
            self._given_up.set()
        await self.revived(after=number)

    async def revived(self, *, after: int = 0) -> None:
        """Return once a life with a number above `after` is up."""
        while not (self.life.is_up and self.life.number > after):
            await self._life_changed.wait()

    async def crash(self) -> None:
        """End the present life as a fault would, for tests."""
        if self._thread is not None:
            with suppress(RouterUnavailable):
                await self._thread.call(self._thread.crash)

    async def hang(self, stuck: Callable[[], object]) -> None:
        """Block the present life with a function as a fault would, for tests."""
        if self._thread is not None:
            with suppress(RouterUnavailable):
                await self._thread.call(self._thread.hang, stuck)

    def _set_life(self, life: Life) -> None:
        changed, self.life, self._life_changed = self._life_changed, life, asyncio.Event()
        changed.set()

    async def _end_of(self, thread: TrioThread) -> BaseException | None:
        """Return the error that ended a life.

        A life that was given up is abandoned, since a thread cannot be ended.
        """
        self._given_up.clear()
        end = asyncio.ensure_future(thread.ended())
        given_up = asyncio.ensure_future(self._given_up.wait())
        try:
            await asyncio.wait((end, given_up), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
        finally:
            end.cancel()
            given_up.cancel()
        thread.abandon()
        if self.service is not None:
            self.service.shut()
        return RouterUnavailable("it did not answer")


def _load() -> None:
    """Import the Trio side, which takes most of a start, and check py-libp2p's private parts.

    It runs in a thread, so that the HTTP side answers meanwhile. Raises RouterUnavailable.
    """
    name = "spegel_py.routing.libp2p.service"
    if name not in sys.modules:
        gc.disable()  # it finds no garbage in modules, and takes a quarter of their loading
        try:
            import_module(name)
        finally:
            gc.enable()
            gc.freeze()  # the modules stay: no collection needs to look at them
    compat = import_module("spegel_py.routing.libp2p.compat")
    compat.silence()
    compat.self_test()
