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

from spegel_py.aside import work_for

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
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    threading.Thread(target=work_for, args=(future, work), name="doctor", daemon=True).start()
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
