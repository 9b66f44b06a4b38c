"""The one bridge between asyncio and Trio: a Trio event loop in a thread of its own.

py-libp2p runs on Trio only, aiohttp on asyncio only. A thread of its own keeps the DHT's CPU time
out of the HTTP loop's latency, and a crash of one side away from the other. Cancellation and
exceptions cross the bridge. A call is queued without waiting for the other side: anyio's portal
waits, and would stop the HTTP side while the Trio side hangs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import trio

from spegel_py.errors import RouterUnavailable
from spegel_py.tools.threads import settle

START_TIMEOUT = 15.0
"""Seconds for the Trio side to come up: importing and listening take 0.3 s on an idle core."""
TaskStatus = Any
"""Trio's task status: the older stubs that py-libp2p depends on hide its type."""
T = TypeVar("T")
Main = Callable[[trio.Event, TaskStatus], Awaitable[None]]


class TrioThread:
    """One life of a Trio event loop that runs `main(stop, task_status)`."""

    def __init__(self, main: Main) -> None:
        self._main = main
        self._loop = asyncio.get_running_loop()
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_abandoned = False
        self._stop = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._replies: set[asyncio.Future[Any]] = set()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="libp2p", daemon=True)

    async def start(self) -> None:
        """Return once `main` reports that it is up.

        Raises the error of `main`, or RouterUnavailable after START_TIMEOUT.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await asyncio.shield(self._started)
        except TimeoutError:
            raise RouterUnavailable(
                f"the libp2p side was not up within {START_TIMEOUT} s"
            ) from None

    async def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Return the result of an async function that runs on the Trio side.

        Raises RouterUnavailable if that side is down.
        """
        token, scope = self._token, trio.CancelScope()
        if token is None:
            raise RouterUnavailable("the libp2p side is not running")
        reply: asyncio.Future[T] = self._loop.create_future()
        self._replies.add(reply)
        try:
            token.run_sync_soon(
                self._start_call, partial(self._answer, reply, scope, function, args), reply
            )
            return await reply
        except trio.RunFinishedError:
            raise RouterUnavailable("the libp2p side is not running") from None
        except asyncio.CancelledError:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)
            raise
        finally:
            self._replies.discard(reply)

    async def ping(self) -> None:
        """Return once the Trio side has answered. Raises RouterUnavailable if it is down."""
        await self.call(trio.lowlevel.checkpoint)

    async def ended(self) -> BaseException | None:
        """Wait for the end. Return the error that ended it, None after an orderly stop."""
        return await asyncio.shield(self._ended)

    async def crash(self) -> None:
        """End this life with an exception, as a fault would. Called on the Trio side, by tests."""
        if self._nursery is not None:
            self._nursery.start_soon(_fail)

    async def hang(self, stuck: Callable[[], object]) -> None:
        """Block this life with a function, as a fault would. Called on the Trio side, by tests."""
        if self._nursery is not None:
            self._nursery.start_soon(_block, stuck)

    def abandon(self) -> None:
        """Abandon this life: it accepts no calls any more, and ends if it ever wakes up."""
        self._is_abandoned = True
        self._ask_to_stop()
        self._token = None
        self._refuse_all()

    async def stop(self, *, timeout: float) -> None:
        """Stop in good order; after `timeout` seconds the thread is abandoned (it is a daemon)."""
        self._ask_to_stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ended)

    def _ask_to_stop(self) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.set)

    def _refuse_all(self) -> None:
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(RouterUnavailable("the libp2p side has ended"))

    # On the Trio side

    def _run(self) -> None:
        death: BaseException | None = None
        try:
            trio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - the other side handles every end
            death = error
        self._token = None
        self._post(self._end, death)

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._main_started)
            if self._is_abandoned:  # before it was up
                self._stop.set()
                return
            self._token = trio.lowlevel.current_trio_token()
            self._post(self._up)

    async def _main_started(self, task_status: TaskStatus) -> None:
        try:
            await self._main(self._stop, task_status)
        finally:
            self._token = None
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()

    def _start_call(
        self, answer: Callable[[], Awaitable[None]], reply: asyncio.Future[Any]
    ) -> None:
        try:
            if self._nursery is not None:
                self._nursery.start_soon(answer)
        except RuntimeError:  # it is ending
            self._post(settle, reply, None, RouterUnavailable("the libp2p side has ended"))

    async def _answer(
        self,
        reply: asyncio.Future[T],
        scope: trio.CancelScope,
        function: Callable[..., Awaitable[T]],
        args: tuple[object, ...],
    ) -> None:
        result, failure = None, None
        try:
            with scope:
                result = await function(*args)
        except trio.Cancelled:
            self._post(settle, reply, None, RouterUnavailable("the libp2p side has ended"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made
            failure = error
        self._post(settle, reply, result, failure)

    def _post(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the asyncio side has ended already
            self._loop.call_soon_threadsafe(function, *args)

    # On the asyncio side again

    def _up(self) -> None:
        if not self._started.done():
            self._started.set_result(None)

    def _end(self, death: BaseException | None) -> None:
        if not self._started.done():
            self._started.set_exception(death or RouterUnavailable("the libp2p side ended at once"))
        self._refuse_all()
        if not self._ended.done():
            self._ended.set_result(death)


async def _block(stuck: Callable[[], object]) -> None:
    stuck()


async def _fail() -> None:
    raise RuntimeError("killed on purpose")
