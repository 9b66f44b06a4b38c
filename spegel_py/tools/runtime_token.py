"""The runtime token: the secret by which a node knows the requests of its own container runtime.

`configuration` makes a token, keeps it in a file that only the node's user can read, and writes it
into hosts.toml. containerd then sends it with each request. Each node has a token of its own, and
no token leaves the machine.

The file has the newest two tokens, one a line and the newest first. A pull that began with the
earlier hosts.toml still sends the older one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from spegel_py.errors import ConfigError
from spegel_py.tools.files import is_public, replace_file
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

TOKEN_BYTES = 32
KEPT = 2
"""Tokens in a file: the newest one, and the one before it."""
MOST_BYTES = 1024
"""Bytes of a file; one with two tokens has 130."""
REREAD = 5.0
"""Seconds between two looks at the file. A request with an unknown token causes one at once."""
LOOK_TIMEOUT = 1.0
"""Seconds that a request with an unknown token waits for the file; a disk may hang."""

_TOKEN = re.compile(rf"[0-9a-f]{{{2 * TOKEN_BYTES}}}", re.ASCII)
_PURPOSE = b"spegel-py token"


class TokenFile:
    """The token file of a running node, which may change at any time.

    A file that is missing or malformed does not end the node: its peers are served, and its own
    runtime goes to the registry until `configuration` has written the file. `own` is a token that
    this process made for its own requests, and that is in no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looking: asyncio.Task[None] | None = None
        self.own = new_token()
        self.tokens: tuple[str, ...] = ()
        self.fault = ""
        """The fault of the file as of the last look; the tokens are then those of before."""
        self._is_public = False
        try:
            self._take(_read(path))
        except ConfigError as error:
            self._fail(error)

    def __repr__(self) -> str:
        return f"<TokenFile {self._path} {[*map(fingerprint, self.tokens)]}>"

    def describe(self) -> Mapping[str, object]:
        """Return the file's state as JSON: fingerprints instead of tokens, and what is wrong."""
        return {
            "file": str(self._path),
            "tokens": [*map(fingerprint, self.tokens)],
            "fault": self.fault,
            "public": self._is_public,
        }

    def faults(self) -> Mapping[str, str]:
        """Return the file if a person has to mend it, with the fault and the remedy."""
        if self.fault:
            return {str(self._path): self.fault}
        if self._is_public:
            return {str(self._path): f"every user can read it: chmod 600 {self._path}"}
        return {}

    async def accept(self, given: str) -> bool:
        """Return True if a request's token is one of this node's.

        The file is read again for an unknown token, since `configuration` may have written it just
        now.
        """
        if not given or self._knows(given):
            return bool(given)
        for _ in range(2):  # the file may have been written since a look that is under way began
            await self._look_in_time()
            if self._knows(given):
                return True
        return False

    async def run(self) -> None:
        """Look at the file every REREAD seconds, until cancelled."""
        while True:
            await asyncio.sleep(REREAD)
            await self._look_in_time()

    async def look(self) -> None:
        """Read the file again. A fault keeps the tokens of before, and is logged once."""
        try:
            self._take(await run_detached(lambda: _read(self._path)))
        except ConfigError as error:
            self._fail(error)

    async def _look_in_time(self) -> None:
        """Wait for one look, which all that wait share: a flood of wrong tokens reads once."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.look(), name="runtime token's file")
        done, _ = await asyncio.wait({self._looking}, timeout=LOOK_TIMEOUT)
        if not done:
            self._fail(ConfigError(f"{self._path}: the disk does not answer; see the disk"))

    def _knows(self, given: str) -> bool:
        written = given.encode(errors="surrogateescape")
        return any(hmac.compare_digest(written, each.encode()) for each in (self.own, *self.tokens))

    def _take(self, content: tuple[tuple[str, ...], bool]) -> None:
        found, is_public = content
        if self.fault:
            log.info("runtime token readable again", file=str(self._path))
        self.fault = ""
        if found != self.tokens:
            self.tokens = found
            log.info("runtime token", file=str(self._path), tokens=[*map(fingerprint, found)])
        if is_public and not self._is_public:
            log.warning(
                "every user of this machine can read the runtime token",
                file=str(self._path),
                remedy=f"chmod 600 {self._path}",
            )
        self._is_public = is_public

    def _fail(self, error: ConfigError) -> None:
        if str(error) != self.fault:
            self.fault = str(error)
            log.error(
                "runtime token unreadable; the tokens of before stay in use", error=self.fault
            )


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
