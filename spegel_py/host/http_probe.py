"""HTTP requests to servers that may never answer, each with a deadline.

They run in detached threads, which do not hold up the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from types import MappingProxyType
from urllib.parse import urlsplit

from spegel_py.tools.threads import run_detached

MIRROR_TIMEOUT = 2.0
"""Seconds for a mirror's response; one on the same machine needs milliseconds."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a body that are read, at most."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, read completely."""

    status: int
    headers: Message
    body: bytes


def explain(failure: OSError | http.client.HTTPException) -> str:
    """Return the reason of a failure in a few words."""
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


async def get(url: str, *, headers: Mapping[str, str] = NO_HEADERS, timeout: float) -> Answer:
    """Return the response of an HTTP server. Proxies are not used.

    Raises:
        TimeoutError: no complete response within `timeout` seconds; the text says how far it came.
        OSError: no connection.
        HTTPException: the response is not HTTP.
        ValueError: `url` is not a URL.
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
            connection.request(
                "GET",
                f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}",
                headers=dict(headers),
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
    """A mirror's answer to one request, or its failure, in a few words."""

    text: str
    is_spegel: bool = False
    """True if spegel-py answered."""
    is_refused: bool = False
    """True if nothing listens there; containerd then continues at once."""
    is_silent: bool = False
    """True if there is no answer; containerd then waits for 30 s or for minutes."""
    is_up: bool = False
    """True if there was an answer."""


async def ask_mirror(url: str) -> MirrorAnswer:
    """Ask a mirror once, as containerd does; never raises."""
    try:
        answer = await get(f"{url.rstrip('/').removesuffix('/v2')}/v2/", timeout=MIRROR_TIMEOUT)
    except ConnectionRefusedError as error:
        return MirrorAnswer(explain(error), is_refused=True)
    except TimeoutError as error:
        return MirrorAnswer(explain(error), is_silent=True)
    except (OSError, http.client.HTTPException) as error:
        return MirrorAnswer(explain(error))
    except ValueError as error:  # not a URL
        return MirrorAnswer(str(error))
    server = answer.headers.get("Server", "")
    text = f"{answer.status} from {server or 'a server without a name'}"
    return MirrorAnswer(text, is_up=True, is_spegel=server.startswith("spegel-py"))
