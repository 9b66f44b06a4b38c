"""The one bridge between asyncio and Trio: a Trio event loop in a thread of its own.

py-libp2p runs on Trio only, aiohttp on asyncio only. A thread keeps the DHT's CPU off the HTTP loop's latency and a
crash of one side away from the other. A call across takes 50-75 µs; cancellation and exceptions cross.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from anyio.from_thread import BlockingPortal

from spegel_py.errors import RouterUnavailable

START_TIMEOUT = 15.0
"""Seconds for the Trio side to come up: importing and listening take 0.3 s on an idle core."""
TaskStatus = Any
"""Trio's task status: its type is hidden by the older stubs that py-libp2p pulls in."""
T = TypeVar("T")
Main = Callable[[trio.Event, TaskStatus], Awaitable[None]]


class TrioThread:
    """One life of a Trio event loop that runs `main(stop, task_status)`."""

    def __init__(self, main: Main) -> None:
        self._main = main
        self._loop = asyncio.get_running_loop()
        self._portal: BlockingPortal | None = None
        self._stop: trio.Event | None = None
        self._nursery: trio.Nursery | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="libp2p", daemon=True)

    async def start(self) -> None:
        """Return when `main` has reported that it is up; raises what it raised, RouterUnavailable after a deadline."""
        self._thread.start()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.shield(self._started)
        except TimeoutError:
            raise RouterUnavailable(f"the libp2p side was not up within {START_TIMEOUT} s") from None

    async def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function on the Trio side and return its result; RouterUnavailable if that side is down."""
        portal = self._portal
        if portal is None:
            raise RouterUnavailable("the libp2p side is not running")
        try:
            future = portal.start_task_soon(function, *args)
        except RuntimeError as error:  # the portal is closing
            raise RouterUnavailable("the libp2p side is not running") from error
        return await asyncio.wrap_future(future)

    async def ended(self) -> BaseException | None:
        """Wait for the end; returns what it died of, or None after an orderly stop."""
        return await asyncio.shield(self._ended)

    async def crash(self) -> None:
        """Kill this life with an exception, as a fault on the Trio side would (called on the Trio side, by tests)."""
        if self._nursery is not None:
            self._nursery.start_soon(_fail)

    async def stop(self, *, timeout: float) -> None:
        """End in good order; after `timeout` seconds the thread is left behind (it is a daemon)."""
        portal, stop = self._portal, self._stop
        if portal is not None and stop is not None:
            try:
                portal.start_task_soon(_set, stop)
            except RuntimeError:
                return
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ended)
        except TimeoutError:
            return

    def _run(self) -> None:
        death: BaseException | None = None
        try:
            trio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - a thread's end: everything is handed to the other side
            death = error
        self._portal = None
        try:
            self._loop.call_soon_threadsafe(self._end, death)
        except RuntimeError:
            return  # the asyncio side is gone already: nobody is left to tell

    async def _serve(self) -> None:
        self._stop = trio.Event()
        async with BlockingPortal() as portal, trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._main_started, self._stop)
            self._portal = portal
            self._loop.call_soon_threadsafe(self._up)

    async def _main_started(self, stop: trio.Event, task_status: TaskStatus) -> None:
        try:
            await self._main(stop, task_status)
        finally:
            self._portal = None

    def _up(self) -> None:
        if not self._started.done():
            self._started.set_result(None)

    def _end(self, death: BaseException | None) -> None:
        if not self._started.done():
            self._started.set_exception(death or RouterUnavailable("the libp2p side ended at once"))
        if not self._ended.done():
            self._ended.set_result(death)


async def _set(event: trio.Event) -> None:
    event.set()


async def _fail() -> None:
    raise RuntimeError("killed on purpose")
