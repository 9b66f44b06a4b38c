"""What can be wrong with a mirror, as one clear error each; aiohttp's exceptions end here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from spegel_py.errors import ConfigError, PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.distribution import PullRequest
from spegel_py.tools.basic_auth import Credentials


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
    user = Credentials(username=url.user, password=url.password or "") if url.user else None
    return str(url.origin()), user.header if user else None


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


MAX_ANSWER = 1024 * 1024
"""Bytes of a token's answer at most; real ones have 5 KB."""

_PARAMETER = re.compile(r'(?<!\w)(\w++)="([^"]*)"', re.ASCII)
"""A parameter is looked for at the beginning of a word only, since a header may be one long word."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Where a token is to be got, and what it is for."""

    realm: URL
    service: str
    scope: str

    @classmethod
    def parse(cls, header: str, *, is_secure: bool) -> Self | None:
        """Return what a `WWW-Authenticate` asks for; None if that is no token, or it is not to be asked for there.

        Who is asked `is_secure` over TLS may not send credentials anywhere without.
        """
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "bearer":
            return None
        fields = dict(_PARAMETER.findall(rest))
        try:
            realm = URL(fields.get("realm", ""))
        except ValueError:
            return None
        if realm.scheme not in (("https",) if is_secure else ("http", "https")) or not realm.host:
            return None
        if (
            realm.user is not None or realm.password is not None
        ):  # whose password goes where is not the asked one's say
            return None
        return cls(realm, fields.get("service", ""), fields.get("scope", ""))

    @property
    def url(self) -> URL:
        """The address that gives the token."""
        wanted = {
            name: value
            for name, value in (("service", self.service), ("scope", self.scope))
            if value
        }
        return self.realm.update_query(wanted)


async def fetch_token(
    session: aiohttp.ClientSession, challenge: Challenge, authorization: str | None
) -> str:
    """Return the token that is asked for, got with the registry's credentials if there are any. Raises PeerError."""
    where = str(challenge.realm)
    headers = {"Accept": "application/json"} | (
        {"Authorization": authorization} if authorization else {}
    )
    with translated(where):
        async with session.get(challenge.url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise PeerRefused(
                    f"{where} answered {response.status}, and gave no token", status=response.status
                )
            token = _token(await _read(response))
    if token is None:
        raise PeerRefused(f"{where} gave no token, but something else", status=502)
    return token


def _token(data: bytes) -> str | None:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found = fields.get("token") or fields.get("access_token") if isinstance(fields, dict) else None
    return (
        found
        if isinstance(found, str) and found and found.isascii() and found.isprintable()
        else None
    )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > MAX_ANSWER:
            return b""
    return bytes(data)
