"""Blocking work that may never end, and must not hold up anything then: disks, names, sockets.

Threads of a pool are waited for at the end of the program; these are left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

MAX_BODY = 8 * 1024 * 1024
"""Bytes of an answer that are read at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Message
    body: bytes


async def aside(work: Callable[[], T]) -> T:
    """Return what `work` returns or raise what it raises, from a thread of its own; cancelling abandons it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: Exception | None) -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no failure

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await future


def explain(failure: OSError | http.client.HTTPException) -> str:
    """Return in a few words why nothing answered."""
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


async def get(url: str, *, authorization: str | None = None, timeout: float) -> Answer:
    """Return the answer of an HTTP server; raises OSError, HTTPException or ValueError. Proxies are not used."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ask() -> Answer:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=timeout)) as connection:
            headers = {"Authorization": authorization} if authorization else {}
            connection.request("GET", f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read(MAX_BODY))

    return await aside(ask)
