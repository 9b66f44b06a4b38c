"""HTTP basic authentication (RFC 7617), and the secret that Spegel's chart mounts for it.

A mirror asks its own node's runtime and the other nodes for the same user name and password.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from spegel_py.errors import ConfigError

BASIC_AUTH_DIR = Path("/etc/secrets/basic-auth")
"""The folder at which Spegel's chart mounts the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and a password, neither of which is ever printed."""

    username: str = field(repr=False)
    password: str = field(repr=False)

    @classmethod
    def read(cls, folder: Path = BASIC_AUTH_DIR) -> Credentials | None:
        """Return the credentials in the files `username` and `password`; None if neither exists.

        Raises ConfigError where one is missing or cannot be read.
        """
        username, password = folder / "username", folder / "password"
        try:
            if not username.exists() and not password.exists():
                return None
            return cls(username=username.read_text().strip(), password=password.read_text().strip())
        except OSError as error:
            raise ConfigError(
                f"{folder} must hold a username and a password that can be read: {error}"
            ) from error

    @property
    def header(self) -> str:
        """The value of the Authorization header that carries them."""
        return "Basic " + base64.b64encode(self.pair).decode()

    def accept(self, header: str) -> bool:
        """Return True if an Authorization header carries them.

        The comparison takes equally long for any wrong password.
        """
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
