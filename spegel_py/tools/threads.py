"""Blocking calls in threads, awaited on the event loop.

Three ways, by what happens when the caller is cancelled or the program ends:

- `run`: the caller waits for the thread. For calls whose descriptor the caller closes next.
- `run_detached`: the thread is abandoned. For one call that may hang: a disk, a name, a socket.
- `DetachedThread`: as `run_detached`, for many calls, one after the other in one thread.

The threads of a pool are joined at the end of the program; detached ones are daemons and are not.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from spegel_py.tools.cancellation import to_the_end

T = TypeVar("T")
P = ParamSpec("P")
_Job = Callable[[], None]


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of a blocking call made in the loop's default pool.

    A cancelled caller first waits for the call to end, however often it is cancelled.
    """
    return await run_in(None, function, *args, **kwargs)


async def run_in(
    pool: Executor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Do the same as `run`, in the threads of this pool."""
    context = contextvars.copy_context()
    call = partial(context.run, function, *args, **kwargs)
    return await to_the_end(asyncio.get_running_loop().run_in_executor(pool, call))


async def run_detached(function: Callable[[], T], *, name: str = "detached") -> T:
    """Return the result of a blocking call made in a daemon thread of this name.

    A cancelled caller goes on at once, and the thread is abandoned.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    threading.Thread(target=fulfil, args=(future, function), name=name, daemon=True).start()
    return await future


class DetachedThread:
    """A daemon thread that makes blocking calls in turn.

    Use it as a context manager, on the loop.
    """

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<DetachedThread {self._name}>"

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._jobs.put(None)

    async def run(self, function: Callable[[], T]) -> T:
        """Return the result of a call.

        A cancelled caller abandons the call, which still runs to its end.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(partial(fulfil, future, function))
        return await future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def fulfil(future: asyncio.Future[T], function: Callable[[], T]) -> None:
    """Call the function in this thread, and settle the future with its outcome if its loop runs."""
    result, failure = None, None
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - raised where the future is awaited
        failure = error
    with suppress(RuntimeError):  # the loop was closed in the meantime
        future.get_loop().call_soon_threadsafe(settle, future, result, failure)


def settle(future: asyncio.Future[T], result: T | None, failure: Exception | None) -> None:
    """Set a future's result or exception, on its loop, unless it is done or cancelled already."""
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no failure
