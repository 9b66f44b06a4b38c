"""A file of secrets that a running node watches: keys, tokens, certificates.

People and programs replace such a file at any time. A file that cannot be used leaves the earlier
content in use. The fault is logged once, and shown until the file is mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from spegel_py.errors import ConfigError
from spegel_py.tools.threads import run_detached

log = structlog.get_logger(__name__)

REREAD = 5.0
"""Seconds between two looks at the file: the kubelet takes a minute to bring a changed Secret."""
LOOK_TIMEOUT = 1.0
"""Seconds that a look is waited for; a disk may hang."""

T = TypeVar("T")
Read = Callable[[Path], tuple[T, bool]]
"""Returns the parsed content of a file, and whether every user can read it. Raises ConfigError,
which names the file and the fault. It blocks."""


class SecretFile(Generic[T]):
    """A watched file of secrets.

    Args:
        path: the file, or a folder of files that belong together.
        name: the words for the content, as people read them in the log.
        parts: the word for the parts of the content, as `/debug/state` shows it.
        read: reads and parses the file.
        fingerprints: returns a text for each part, by which people tell contents apart without
            seeing them.
        default: the content while the file could not be used yet. Without one, the file must be
            good at the start: ConfigError is raised.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        parts: str,
        read: Read[T],
        fingerprints: Callable[[T], Sequence[str]],
        default: T | None = None,
    ) -> None:
        self._path = path
        self._name = name
        self._parts = parts
        self._read = read
        self._fingerprints = fingerprints
        self._looking: asyncio.Task[None] | None = None
        self._is_public = False
        self.changed: Callable[[T], Awaitable[None]] = _ignore
        """Is awaited with the new content when the file has another one."""
        self.fault = ""
        """The fault of the file as of the last look; the content is then the earlier one."""
        try:
            self.content, is_public = read(path)
            self._judge_mode(is_public=is_public)
        except ConfigError as error:
            if default is None:
                raise
            self.content = default
            self._fail(str(error))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path} {[*self._fingerprints(self.content)]}>"

    def describe(self) -> Mapping[str, object]:
        """Return the file's state as JSON: fingerprints instead of secrets, and the fault."""
        return {
            "file": str(self._path),
            self._parts: [*self._fingerprints(self.content)],
            "fault": self.fault,
            "public": self._is_public,
        }

    def faults(self) -> Mapping[str, str]:
        """Return the file if a person has to mend it, with the fault and the remedy."""
        if self.fault:
            return {str(self._path): f"{self.fault}; its earlier content stays in use"}
        if self._is_public:
            return {str(self._path): f"every user can read it: {self._remedy}"}
        return {}

    async def run(self) -> None:
        """Look at the file every REREAD seconds, until cancelled."""
        while True:
            await asyncio.sleep(REREAD)
            await self.look_in_time()

    async def look_in_time(self) -> None:
        """Wait for one look, which all callers share, LOOK_TIMEOUT seconds at most."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.look(), name=f"look at the {self._name}")
        done, _ = await asyncio.wait({self._looking}, timeout=LOOK_TIMEOUT)
        for look in done:
            look.result()  # an error of `changed` is the caller's
        if not done:
            self._fail(f"{self._path}: the disk does not answer; see the disk")

    async def look(self) -> None:
        """Read the file again. A fault keeps the earlier content, and is logged once."""
        try:
            found, is_public = await run_detached(lambda: self._read(self._path))
        except ConfigError as error:
            self._fail(str(error))
            return
        if self.fault:
            log.info("secret file readable again", secret=self._name, file=str(self._path))
        self.fault = ""
        self._judge_mode(is_public=is_public)
        if found != self.content:
            self.content = found
            log.info(
                "secret file changed",
                secret=self._name,
                file=str(self._path),
                parts=[*self._fingerprints(found)],
            )
            await self.changed(found)

    @property
    def _remedy(self) -> str:
        return f"chmod 600 {self._path}"

    def _judge_mode(self, *, is_public: bool) -> None:
        was_public, self._is_public = self._is_public, is_public
        if is_public and not was_public:
            log.warning(
                "every user of this machine can read a secret file",
                secret=self._name,
                file=str(self._path),
                remedy=self._remedy,
            )

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            log.error(
                "secret file unreadable; its earlier content stays in use",
                secret=self._name,
                error=fault,
            )


def secret_faults(*files: SecretFile[Any] | None) -> Mapping[str, str]:
    """Return the files that a person has to mend, each with its fault."""
    return {path: why for file in files if file for path, why in file.faults().items()}


async def _ignore(_content: object) -> None:
    """Do nothing with new content."""
