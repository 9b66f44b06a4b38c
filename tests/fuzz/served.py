"""Servers of the project in a thread of their own, and what a client of this thread sees of
them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from structlog.testing import capture_logs

T = TypeVar("T")

GIVEN_UP = 20.0
"""Seconds that a server has for anything: the machine may be busy."""

STREAMS = 0.1
"""Seconds after which an answer that still goes on is one that never ends, and is taken for what
there is of it.
"""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Loop:
    """An event loop in a thread. What it complains about is in `faults`."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._complain)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns in that thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(GIVEN_UP)

    @contextmanager
    def running(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter and leave an asynchronous context there, in one task as some need."""
        entered, leave = asyncio.run_coroutine_threadsafe(_events(), self._loop).result(GIVEN_UP)
        found: list[T] = []

        async def live() -> None:
            async with context as value:
                found.append(value)
                entered.set()
                await leave.wait()

        task = asyncio.run_coroutine_threadsafe(live(), self._loop)
        try:
            self.run(_first(entered, task))
            yield found[0]
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            task.result(GIVEN_UP)

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GIVEN_UP)
        self._loop.close()

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


async def _events() -> tuple[asyncio.Event, asyncio.Event]:
    return asyncio.Event(), asyncio.Event()


async def _first(entered: asyncio.Event, task: Any) -> None:
    """Wait until a context is entered, or raise what kept it from that."""
    waiting = asyncio.ensure_future(entered.wait())
    await asyncio.wait([waiting, asyncio.wrap_future(task)], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not entered.is_set():
        task.result()


class _Heard(logging.Handler):
    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(
            f"{record.name}: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
        )


@contextmanager
def loop() -> Iterator[Loop]:
    """Give a loop; errors in any log are its faults."""
    found = Loop()
    heard = _Heard(found.faults)
    logging.getLogger().addHandler(heard)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(heard)
        found.close()


@dataclass
class Served:
    """A server, as its clients see it. `ping` is a request that it answers at once."""

    port: int
    loop: Loop
    logs: list[Any]
    ping: bytes
    under_way: list[object] = field(default_factory=list)

    def send(self, data: bytes) -> bytes:
        """Return what is answered to bytes on a connection of their own. Raises AssertionError for
        an error there.
        """
        with closing(
            socket.create_connection(("127.0.0.1", self.port), timeout=GIVEN_UP)
        ) as client:
            with suppress(OSError):  # it may hang up before it has read all
                client.sendall(data)
            self.check()
            self._wait()
            answer = _there(client)
        statuses = [int(each) for each in _STATUS.findall(answer)]
        assert all(status < 500 or status == 503 for status in statuses), statuses
        self.check()
        return answer

    def ask(self, data: bytes) -> bytes:
        """Return the answer to a request that has `Connection: close`, to its end."""
        with closing(
            socket.create_connection(("127.0.0.1", self.port), timeout=GIVEN_UP)
        ) as client:
            client.sendall(data)
            answer = bytearray()
            while piece := client.recv(65536):
                answer += piece
        return bytes(answer)

    def check(self) -> None:
        """Raise AssertionError if the server does not answer any more, or has told of a fault of
        its own.
        """
        assert _STATUS.match(self.ask(self.ping))
        errors = [str(each) for each in self.logs if each["log_level"] in ("error", "critical")]
        faults = [*self.loop.faults, *errors]
        self.loop.faults.clear()
        self.logs.clear()
        assert not faults, faults[0][:1000]

    def _wait(self) -> None:
        """Wait for the requests that are being answered."""
        end = time.monotonic() + STREAMS
        while self.under_way and time.monotonic() < end:
            time.sleep(0.001)


def _there(client: socket.socket) -> bytes:
    """Return what was sent to a client so far."""
    client.setblocking(False)
    answer = bytearray()
    with suppress(OSError):  # nothing more yet, or reset
        while piece := client.recv(65536):
            answer += piece
    return bytes(answer)


def counting(under_way: list[object]) -> Middleware:
    """Return a middleware that keeps the requests that are being answered in a list."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        under_way.append(request)
        try:
            return await handler(request)
        finally:
            under_way.remove(request)

    return middleware


@contextmanager
def logged() -> Iterator[list[Any]]:
    """Give the list that takes all log lines."""
    with capture_logs() as logs:
        yield logs
