"""Content that is damaged on a seed's disk, and disks that fail."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from spegel_py.oci.build import Blob
from tests.faults.chaos.scene import NotPossible, Scene
from tests.lab import Node
from tests.processes import CommandFailed, run


@asynccontextmanager
async def small_spoiled(scene: Scene) -> AsyncIterator[None]:
    """Change a byte of every small layer, at all seeds but one."""
    async with _damaged(scene, scene.field.seeds[:-1], scene.field.small, _spoil):
        yield


@asynccontextmanager
async def large_spoiled(scene: Scene) -> AsyncIterator[None]:
    """Change a byte of the large layer at every seed: only the registry has it right."""
    async with _damaged(scene, scene.field.seeds, scene.field.large, _spoil):
        yield


@asynccontextmanager
async def large_truncated(scene: Scene) -> AsyncIterator[None]:
    """Cut off the second half of the large layer, as a power cut may, at all seeds but one."""
    async with _damaged(scene, scene.field.seeds[:-1], scene.field.large, _truncate):
        yield


@asynccontextmanager
async def server_truncated(scene: Scene) -> AsyncIterator[None]:
    """Cut off the second half of every layer at the node that serves, while it reads them.

    The kernel zeroes the rest of what was one piece of its page cache, even where sendfile has queued it already: then
    zeros arrive, followed by the right bytes of another peer.
    """
    async with _damaged(scene, [await scene.server()], scene.field.layers, _truncate):
        yield


@asynccontextmanager
async def server_emptied(scene: Scene) -> AsyncIterator[None]:
    """Delete every layer below the node that serves."""
    async with _damaged(
        scene, [await scene.server()], scene.field.layers, lambda path, _: path.unlink()
    ):
        yield


def _spoil(path: Path, data: bytes) -> None:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    path.write_bytes(changed)


def _truncate(path: Path, data: bytes) -> None:
    os.truncate(path, len(data) // 2)


@asynccontextmanager
async def _damaged(
    scene: Scene,
    nodes: Sequence[Node],
    blobs: Sequence[Blob],
    damage: Callable[[Path, bytes], None],
) -> AsyncIterator[None]:
    try:
        for node in nodes:
            for blob in blobs:
                damage(node.daemon.path(blob.digest), blob.data)
        yield
    finally:
        for node in nodes:
            for blob in blobs:
                node.daemon.path(blob.digest).write_bytes(blob.data)
            assert node.spegel
            await node.spegel.end(signal.SIGKILL)  # it remembers what it found damaged


# Disks


class Disks:
    """Disks of two seeds, which work until `fail` is entered; `mounted` is entered before the pull."""

    def __init__(self) -> None:
        self._images: list[Path] = []

    @asynccontextmanager
    async def mounted(self, scene: Scene) -> AsyncIterator[None]:
        """Move the blobs of two seeds to a filesystem of their own, on a loop device."""
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            async with AsyncExitStack() as stack:
                for node in scene.field.seeds[:-1]:
                    self._images.append(Path(folder, node.address))
                    await stack.enter_async_context(_mounted(node, self._images[-1]))
                stack.callback(self._images.clear)
                yield

    @asynccontextmanager
    async def failing(self, scene: Scene) -> AsyncIterator[None]:
        """Cut off the files below the loop devices: whatever the kernel has not read yet is an I/O error (EIO)."""
        for image in self._images:
            os.truncate(image, 1_000_000)
        yield


@asynccontextmanager
async def _mounted(node: Node, image: Path) -> AsyncIterator[None]:
    blobs = node.daemon.content_path / "blobs" / "sha256"
    await run(
        "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(blobs), str(image), "160M"
    )
    try:
        await run("mount", "-o", "loop,ro", str(image), str(blobs))
    except CommandFailed as error:
        raise NotPossible("no loop devices here") from error
    try:
        yield
    finally:
        await run("umount", "--lazy", str(blobs))
        assert node.spegel
        await node.spegel.end(signal.SIGKILL)  # it may remember that its content could not be read


@asynccontextmanager
async def small_disk(folder: Path, *, size: str) -> AsyncIterator[Path]:
    """Mount a disk of this size, as in 256k; it is left behind where a process still looks at it."""
    folder.mkdir(parents=True)
    await run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        await run("umount", "-l", str(folder))
