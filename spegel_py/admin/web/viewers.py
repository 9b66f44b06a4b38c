"""The viewers of the page, and their streams of changed parts, as server-sent events.

There is no task beside the viewers' own requests, and no queue. Each request reads the shared parts
and sends the parts that differ from the last ones it sent. So nothing runs without a viewer, and a
slow viewer holds only the bytes that are on their way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from aiohttp import web

from spegel_py.admin.web.page import PERIOD, Page
from spegel_py.errors import Busy

LIMIT = 16
"""Viewers at a time. Further viewers keep the page as it was when it was loaded."""

HEARTBEAT = 15.0
"""Seconds without changes after which an empty event is sent, so that no proxy disconnects."""

PATIENCE = 10.0
"""Seconds that a viewer may take to read one event."""

RETRY = 3000
"""Milliseconds after which a browser connects again."""


class Viewers:
    """Streams a page to its viewers. `period`, `heartbeat` and `patience` are seconds."""

    def __init__(
        self,
        *,
        page: Page,
        limit: int = LIMIT,
        period: float = PERIOD,
        heartbeat: float = HEARTBEAT,
        patience: float = PATIENCE,
    ) -> None:
        self._page = page
        self._limit = limit
        self._period = period
        self._heartbeat = heartbeat
        self._patience = patience
        self._is_over = asyncio.Event()
        self._writing: set[asyncio.Timeout] = set()
        self.count = 0
        """The number of viewers now."""

    def __repr__(self) -> str:
        return f"<Viewers {self.count} of {self._limit}>"

    async def close(self, _app: web.Application | None = None) -> None:
        """End all streams at once, also those of slow viewers, and start no more."""
        self._is_over.set()
        for deadline in self._writing:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def follow(self, request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
        """Answer with a stream until the viewer leaves or the node ends.

        Raises Busy if there are too many viewers.
        """
        if self.count >= self._limit or self._is_over.is_set():
            raise Busy(f"{self._limit} pages are kept up to date already; reload this one for news")
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        self.count += 1
        try:
            await response.prepare(request)
            await self._stream(response)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()  # drop the bytes queued for a viewer that does not read
        finally:
            self.count -= 1
            if not self.count:
                self._page.forget()
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        clock = asyncio.get_running_loop().time
        sent: Mapping[str, str] = {}
        last, news = clock(), f"retry: {RETRY}\n\n"
        while True:
            parts = await self._page.parts()
            news += "".join(
                _event(name, html) for name, html in parts.items() if sent.get(name) != html
            )
            if not news and clock() - last >= self._heartbeat:
                news = ":\n\n"
            if news:
                await self._write(response, news)
                last = clock()
            sent, news = parts, ""
            if await self._ends():
                return

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        async with asyncio.timeout(self._patience) as deadline:
            self._writing.add(deadline)
            try:
                await response.write(text.encode())
            finally:
                self._writing.discard(deadline)

    async def _ends(self) -> bool:
        """Wait for the next period; return True if the node ends meanwhile."""
        try:
            async with asyncio.timeout(self._period):
                await self._is_over.wait()
        except TimeoutError:
            return False
        return True


def _event(name: str, html: str) -> str:
    return f"event: part\ndata: {json.dumps({'name': name, 'html': html})}\n\n"
