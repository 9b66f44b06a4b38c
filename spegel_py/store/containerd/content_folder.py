"""The folder of containerd's content store: the given one, else the daemon's own, else none.

The given folder may be missing, or belong to another daemon. Then the daemon is asked for its own
folder. If that cannot be read here either, blobs are read over the socket. The choice is made anew
at each listing, so a folder that is mounted later is used from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from spegel_py.errors import SpegelError, StoreError
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.cri import content_root
from spegel_py.store.containerd.daemon_paths import check_content_path
from spegel_py.store.containerd.grpc_client import Client

log = structlog.get_logger(__name__)

SAMPLE = 8
"""Blobs that are searched in a folder: some of them may be collected meanwhile."""


@dataclass(frozen=True, slots=True)
class FolderState:
    """A folder as it is seen here.

    `problem` is the reason why it cannot be used. `found` of `sample` blobs that the daemon lists
    are in it.
    """

    path: Path
    problem: str = ""
    sample: int = 0
    found: int = 0

    @property
    def fault(self) -> str:
        """The reason why it is not this daemon's content store; empty if it may be."""
        if self.sample and not self.found and not self.problem:
            return f"the content path {self.path} holds none of containerd's blobs"
        return self.problem


@dataclass(frozen=True, slots=True)
class FolderChoice:
    """The folder to read, None for the socket, and the reason if it is not the given folder."""

    path: Path | None
    reason: str = ""


def choose(given: FolderState, told: FolderState | None) -> FolderChoice:
    """Return the folder to read: the `given` one, or the one that the daemon `told`."""
    # Case 1: the given folder can be this daemon's.
    if not given.fault:
        return FolderChoice(given.path)
    # Case 2: the daemon's own folder can be read here.
    if told is not None and told.path != given.path and not told.fault:
        return FolderChoice(told.path, given.fault)
    # Case 3: neither can.
    return FolderChoice(None, given.fault)


def look(path: Path, blobs: Collection[Digest]) -> FolderState:
    """Return the state of a folder; it may block.

    Args:
        path: the folder.
        blobs: the blobs that the daemon lists.
    """
    try:
        check_content_path(path)
    except SpegelError as error:
        return FolderState(path, str(error).partition(";")[0])
    sample = sorted(blobs)[:SAMPLE]
    return FolderState(path, "", len(sample), sum(_can_read(path, digest) for digest in sample))


def _can_read(root: Path, digest: Digest) -> bool:
    try:
        with (root / "blobs" / digest.algorithm / digest.hex).open("rb") as blob:
            blob.read(1)
    except OSError:
        return False
    return True


class ContentFolder:
    """The folder in use. Before the daemon's first answer it is the `given` one.

    None as `given` stands for the socket.
    """

    def __init__(self, given: Path | None) -> None:
        self.given = given
        self.choice = FolderChoice(given)

    def __repr__(self) -> str:
        return f"<ContentFolder {self.path or 'socket'}>"

    @property
    def path(self) -> Path | None:
        """The folder in use; None if blobs are read over the socket."""
        return self.choice.path

    async def locate(self, client: Client, blobs: Collection[Digest]) -> None:
        """Choose the folder again, now that the daemon lists these blobs."""
        if self.given is None:
            return
        given, told = await asyncio.to_thread(look, self.given, blobs), None
        if given.fault:
            with suppress(StoreError):
                root = await content_root(client)
                told = await asyncio.to_thread(look, root, blobs) if root else None
        before, self.choice = self.choice, choose(given, told)
        if self.choice != before:
            self._report()

    def _report(self) -> None:
        reads = str(self.path or "over the socket")
        if self.choice.reason:
            log.warning("content path not used", reason=self.choice.reason, reads=reads)
        else:
            log.info("content path used", reads=reads)
