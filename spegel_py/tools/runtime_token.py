"""The runtime token: the secret by which a node knows the requests of its own container runtime.

`configuration` makes a token, keeps it in a file that only the node's user can read, and writes it
into hosts.toml. containerd then sends it with each request. Each node has a token of its own, and
no token leaves the machine.

The file has the newest two tokens, one a line and the newest first. A pull that began with the
earlier hosts.toml still sends the older one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from spegel_py.errors import ConfigError
from spegel_py.tools.files import is_public, replace_file
from spegel_py.tools.secret_file import SecretFile

TOKEN_BYTES = 32
KEPT = 2
"""Tokens in a file: the newest one, and the one before it."""
MOST_BYTES = 1024
"""Bytes of a file; one with two tokens has 130."""

_TOKEN = re.compile(rf"[0-9a-f]{{{2 * TOKEN_BYTES}}}", re.ASCII)
_PURPOSE = b"spegel-py token"


class TokenFile(SecretFile[tuple[str, ...]]):
    """The token file of a running node, which may change at any time.

    A file that is missing or malformed does not end the node: its peers are served, and its own
    runtime goes to the registry until `configuration` has written the file. `own` is a token that
    this process made for its own requests, and that is in no file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            name="runtime token",
            parts="tokens",
            read=_read,
            fingerprints=lambda tokens: [*map(fingerprint, tokens)],
            default=(),
        )
        self.own = new_token()

    async def accept(self, given: str) -> bool:
        """Return True if a request's token is one of this node's.

        The file is read again for an unknown token, since `configuration` may have written it just
        now. All requests share a look, so a flood of wrong tokens reads once.
        """
        if not given or self._knows(given):
            return bool(given)
        for _ in range(2):  # the file may have been written since a look that is under way began
            await self.look_in_time()
            if self._knows(given):
                return True
        return False

    def _knows(self, given: str) -> bool:
        written = given.encode(errors="surrogateescape")
        known = (self.own, *self.content)
        return any(hmac.compare_digest(written, each.encode()) for each in known)


def new_token() -> str:
    """Return a new token: 64 hexadecimal digits."""
    return secrets.token_hex(TOKEN_BYTES)


def fingerprint(token: str) -> str:
    """Return eight hexadecimal digits by which people can compare tokens without seeing them."""
    return hashlib.blake2b(token.encode(), person=_PURPOSE, digest_size=4).hexdigest()


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens in a file, the newest one first. Raises ConfigError."""
    return _read(path)[0]


def known_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens in a file, none if it is missing or damaged."""
    try:
        return read_tokens(path)
    except ConfigError:
        return ()


def write_tokens(path: Path, tokens: Sequence[str]) -> None:
    """Replace the file, for the owner of its folder alone to read; none removes it.

    A missing folder is made. Raises ConfigError.
    """
    try:
        if not tokens:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = "".join(f"{each}\n" for each in tokens[:KEPT])
        replace_file(path, text.encode(), mode=0o600)
        folder, own = path.parent.stat(), path.stat()
        if (own.st_uid, own.st_gid) != (folder.st_uid, folder.st_gid) and os.geteuid() == 0:
            os.chown(path, folder.st_uid, folder.st_gid)
    except OSError as error:
        raise ConfigError(
            f"--runtime-token: {path} cannot be written: {error.strerror}; name a file in a folder "
            "of the node's own, such as its --data-dir"
        ) from error


def _read(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the tokens in a file, and whether every user can read it. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return _parsed(path, file.read(MOST_BYTES + 1)), is_public(file.fileno())
    except OSError as error:
        raise _unreadable(path, error) from None


def _parsed(path: Path, data: bytes) -> tuple[str, ...]:
    found = tuple(data.decode(errors="replace").split())
    if not 0 < len(found) <= KEPT or not all(map(_TOKEN.fullmatch, found)):
        raise ConfigError(
            f"{path} is no token file; `spegel-py configuration --runtime-token {path}` writes one"
        )
    return found


def _unreadable(path: Path, error: OSError) -> ConfigError:
    remedy = (
        f"`spegel-py configuration --runtime-token {path}` writes it"
        if isinstance(error, FileNotFoundError)
        else "let the node's user read it"
    )
    return ConfigError(f"{path}: {error.strerror}; {remedy}")
