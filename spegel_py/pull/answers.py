"""The answers of a mirror or registry: each failure as one clear error, and the tokens of a 401.

`translated` turns aiohttp's exceptions into errors of this program.
"""

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
from spegel_py.tools.addresses import MirrorAddress
from spegel_py.tools.basic_auth import Credentials

MAX_ANSWER = 1024 * 1024
"""Bytes of the longest token answer. Real ones have 5 KB."""

_PARAMETER = re.compile(r'(?<!\w)(\w++)="([^"]*)"', re.ASCII)
"""Parameters are searched at the start of words only, since a header may be one long word."""


def parse_mirror(text: str | MirrorAddress, *, is_upstream: bool = False) -> MirrorAddress:
    """Return a mirror's address; a URL may have a user and a password. Raises ConfigError."""
    if isinstance(text, MirrorAddress):
        return text
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
    return MirrorAddress(str(url.origin()), user.header if user else None)


def _hide(text: str) -> str:
    _, separator, rest = text.rpartition("@")
    return f"…@{rest}" if separator else text


def check_status(
    request: PullRequest, status: int, where: str, *, is_upstream: bool = False
) -> None:
    """Raise the error of an answer's status: ManifestUnknown, BlobUnknown or PeerRefused."""
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
    if status == 403 and not is_upstream:
        raise PeerRefused(
            f"{where} answered 403: it serves only clients with its runtime token", status=status
        )
    if status not in (200, 206):
        raise PeerRefused(f"{where} answered {status} for {request.key}", status=status)


@asynccontextmanager
async def in_time(seconds: float, message: str) -> AsyncIterator[None]:
    """Raise PeerStalled with the message if the block takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise PeerStalled(message) from error


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn exceptions of aiohttp and the system into PeerErrors that name the host `where`."""
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
    """Return the reason in the words of the system or the TLS library.

    asyncio and uvloop word theirs differently.
    """
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


@dataclass(frozen=True, slots=True)
class Challenge:
    """The address of a token server, and the service and scope to request.

    Public registries want a token from anonymous clients too. Their 401 names the server
    (distribution spec, token authentication), and each token is for one repository.
    """

    realm: URL
    service: str
    scope: str

    @classmethod
    def parse(cls, header: str, *, is_secure: bool) -> Self | None:
        """Return the challenge of a `WWW-Authenticate` header; None if it asks for no token.

        It is also None for an address that must not be asked. A registry that was asked over TLS
        (`is_secure`) may not send credentials to a server without TLS.
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
        # the answer must not choose the credentials that are sent
        if realm.user is not None or realm.password is not None:
            return None
        return cls(realm, fields.get("service", ""), fields.get("scope", ""))

    @property
    def url(self) -> URL:
        """The address of the request for the token."""
        query = {
            name: value
            for name, value in (("service", self.service), ("scope", self.scope))
            if value
        }
        return self.realm.update_query(query)


async def fetch_token(
    session: aiohttp.ClientSession, challenge: Challenge, authorization: str | None
) -> str:
    """Return the requested token, using the registry's credentials if there are any.

    Raises PeerError.
    """
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
