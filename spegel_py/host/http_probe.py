"""Asking what may never answer: disks, names, sockets. Nothing is held up by it.

Threads of a pool are waited for at the end of the program; these are left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

from spegel_py.tools.threads import run_detached

PATIENCE = 2.0
"""Seconds that a mirror has for its answer. One on the same machine needs milliseconds."""

MAX_BODY = 8 * 1024 * 1024
"""Bytes of an answer that are read at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Message
    body: bytes


def explain(failure: OSError | http.client.HTTPException) -> str:
    """Return in a few words why nothing answered."""
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


async def get(url: str, *, authorization: str | None = None, timeout: float) -> Answer:
    """Return the answer of an HTTP server. Proxies are not used.

    Raises:
        TimeoutError: there is no whole answer within `timeout` seconds; it says how far it came.
        OSError: there is no connection.
        HTTPException: the answer is not HTTP.
        ValueError: `url` is no URL.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    state = "takes no connection"

    def ask() -> Answer:
        nonlocal state
        with contextlib.closing(
            kind(parts.hostname or "", parts.port, timeout=timeout)
        ) as connection:
            connection.connect()
            state = "takes connections, but gives no answer"
            headers = {"Authorization": authorization} if authorization else {}
            connection.request(
                "GET",
                f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}",
                headers=headers,
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read(MAX_BODY))

    try:
        async with asyncio.timeout(timeout):
            return await run_detached(ask)
    except TimeoutError as error:
        raise TimeoutError(f"{state} within {timeout:g} s") from error


@dataclass(frozen=True, slots=True)
class MirrorAnswer:
    """How a mirror answered once, in a few words."""

    text: str
    is_spegel: bool = False
    """It is spegel-py."""
    is_refused: bool = False
    """Nothing listens there, so containerd goes on at once."""
    is_silent: bool = False
    """containerd waits there, for 30 s or for minutes, before it goes on."""
    is_up: bool = False
    """There was an answer."""


async def ask_mirror(url: str) -> MirrorAnswer:
    """Ask a mirror once, as containerd does; never raises."""
    try:
        answer = await get(f"{url.rstrip('/').removesuffix('/v2')}/v2/", timeout=PATIENCE)
    except ConnectionRefusedError as error:
        return MirrorAnswer(explain(error), is_refused=True)
    except TimeoutError as error:
        return MirrorAnswer(explain(error), is_silent=True)
    except (OSError, http.client.HTTPException) as error:
        return MirrorAnswer(explain(error))
    except ValueError as error:  # no URL
        return MirrorAnswer(str(error))
    server = answer.headers.get("Server", "")
    text = f"{answer.status} from {server or 'a server without a name'}"
    return MirrorAnswer(text, is_up=True, is_spegel=server.startswith("spegel-py"))
