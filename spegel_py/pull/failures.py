"""What can be wrong with a mirror, as one clear error each; aiohttp's exceptions end here."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from yarl import URL

from spegel_py.errors import ConfigError, PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.distribution import PullRequest


def parse_mirror(text: str, *, is_upstream: bool = False) -> tuple[str, str | None]:
    """Return a mirror's `scheme://host:port`, and the Authorization header if it names a user. Raises ConfigError."""
    try:
        url = URL(text)
        host = url.host
    except ValueError:
        url, host = URL(), None
    if (
        url.scheme not in ("http", "https")
        or not host
        or url.path != "/"
        or url.query_string
        or url.fragment
    ):
        whose = "upstream's" if is_upstream else "a mirror's"
        example = "https://registry.example" if is_upstream else "http://127.0.0.1:5000"
        raise ConfigError(f"{_hide(text)[:160]!r} is not {whose} address; write it as {example}")
    pair = f"{url.user}:{url.password or ''}".encode()
    return str(url.origin()), f"Basic {base64.b64encode(pair).decode()}" if url.user else None


def _hide(text: str) -> str:
    _, separator, rest = text.rpartition("@")
    return f"…@{rest}" if separator else text


def check_status(
    request: PullRequest, status: int, where: str, *, is_upstream: bool = False
) -> None:
    """Raise what an answer's status means: ManifestUnknown, BlobUnknown or PeerRefused, unless there is content."""
    if status == 404 and is_upstream:
        raise request.kind.unknown(
            f"the mirror did not give {request.key}, and {where} does not have it"
        )
    if status == 404:
        raise request.kind.unknown(f"nobody in the cluster has {request.key} (asked {where})")
    if status == 401:
        raise PeerRefused(
            f"{where} asks for a user name and a password, or those given are wrong", status=status
        )
    if status not in (200, 206):
        raise PeerRefused(f"{where} answered {status} for {request.key}", status=status)


@asynccontextmanager
async def in_time(seconds: float, message: str) -> AsyncIterator[None]:
    """Raise PeerStalled with the message if the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise PeerStalled(message) from error


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn aiohttp's and the system's exceptions into PeerErrors that name the mirror at `where`."""
    try:
        yield
    except aiohttp.ClientSSLError as error:
        raise PeerUnreachable(f"no TLS with {where}: {_reason(error)}") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise PeerUnreachable(f"no connection to {where} in time") from error
    except TimeoutError as error:
        raise PeerStalled(f"{where} sent nothing in time") from error
    except aiohttp.ClientResponseError as error:
        raise PeerRefused(
            f"{where} does not answer in HTTP: {_line(error.message)}", status=error.status
        ) from error
    except aiohttp.ClientPayloadError as error:
        raise PeerUnreachable(f"{where} broke off in the middle of the body") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PeerUnreachable(f"no connection to {where}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the cause in the system's or the TLS library's words; asyncio and uvloop word their own differently."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return _line(inner.verify_message)
    if (
        isinstance(inner, OSError)
        and not isinstance(inner, ssl.SSLError | socket.gaierror)
        and inner.errno
    ):
        return os.strerror(inner.errno)
    return _line(getattr(inner, "strerror", None) or str(inner) or repr(inner))


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
