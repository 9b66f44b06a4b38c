"""One thread for what a disk may hold up for ever; it is left behind at the end, as no thread of a pool would be."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from spegel_py.aside import work_for

T = TypeVar("T")
_Job = Callable[[], None]


class Aside:
    """Runs blocking functions one after the other. Use it as a context manager, on the event loop."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="supervision-disk", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._jobs.put(None)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns; cancelling this leaves it to its fate."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(partial(work_for, future, function))
        return await future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
