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

MAX_PASSWORDS = 4
"""Lines of the file with the password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and a password, neither of which is ever printed.

    `others` are accepted too, and never sent: while a password is replaced there are two.
    """

    username: str = field(repr=False)
    password: str = field(repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, folder: Path = BASIC_AUTH_DIR) -> Credentials | None:
        """Return the credentials in the files `username` and `password`; None if neither exists.

        Each line of `password` is one. Raises ConfigError where a file is missing or cannot be
        read, and for more than MAX_PASSWORDS.
        """
        username, password = folder / "username", folder / "password"
        try:
            if not username.exists() and not password.exists():
                return None
            lines = [line.strip() for line in password.read_text().splitlines()]
            name, found = username.read_text().strip(), [line for line in lines if line]
        except OSError as error:
            raise ConfigError(
                f"{folder} must hold a username and a password that can be read: {error}"
            ) from error
        if len(found) > MAX_PASSWORDS:
            raise ConfigError(
                f"{password} has {len(found)} lines, each of which is a password: "
                f"{MAX_PASSWORDS} are allowed, and one is enough unless it is being replaced"
            )
        return cls(username=name, password="".join(found[:1]), others=tuple(found[1:]))

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
        matches = [hmac.compare_digest(given, each) for each in (self.pair, *self.other_pairs)]
        return any(matches) and scheme.lower() == "basic"

    @property
    def pair(self) -> bytes:
        """`username:password` as bytes."""
        return f"{self.username}:{self.password}".encode()

    @property
    def other_pairs(self) -> tuple[bytes, ...]:
        """`username:password` as bytes, with each further password that is accepted."""
        return tuple(f"{self.username}:{each}".encode() for each in self.others)
