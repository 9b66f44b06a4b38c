"""The tokens that public registries want, for anonymous clients too: a 401 names who gives them (distribution spec,
token authentication), and each is for one repository."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from spegel_py.errors import PeerRefused
from spegel_py.pull.failures import translated

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
