"""HTTP basic authentication (RFC 7617): the same user for the runtime of this node and for the other nodes."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and a password, neither of which is ever printed."""

    username: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """The value of the Authorization header that carries them."""
        return "Basic " + base64.b64encode(self.pair).decode()

    def accept(self, header: str) -> bool:
        """Say whether an Authorization header carries them; takes equally long for any wrong password."""
        scheme, _, value = header.partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, self.pair) and scheme.lower() == "basic"

    @property
    def pair(self) -> bytes:
        """`username:password` as bytes."""
        return f"{self.username}:{self.password}".encode()
