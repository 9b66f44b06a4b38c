"""Ingests that the contract runs on, with ways to write them from outside."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Protocol, Self

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingests
from spegel_py.store.containerd import Client, ContainerdIngests, ContentFolder
from spegel_py.store.containerd.containerd_image_writer import abort
from spegel_py.store.containerd.grpc_errors import Locked
from spegel_py.store.layout import BlobWriter, LayoutIngests
from spegel_py.store.memory_store import MemoryIngests
from tests.support import images
from tests.support.containerd import NAMESPACE, Daemon
from tests.support.processes import until


class Pulling(Protocol):
    """Ingests, and a writer for them."""

    ingests: Ingests

    async def begin(self, digest: Digest, total: int) -> None: ...
    async def write(self, digest: Digest, data: bytes) -> None:
        """Append bytes: a whole MiB, or the end."""

    async def commit(self, digest: Digest) -> None:
        """Commit the content."""

    async def fail(self, digest: Digest) -> None:
        """Let the writer die."""

    async def close(self) -> None: ...


class MemoryPulling:
    """MemoryIngests."""

    def __init__(self) -> None:
        self.memory = MemoryIngests()
        self.ingests: Ingests = self.memory

    async def begin(self, digest: Digest, total: int) -> None:
        self.memory.begin(digest, total=total)

    async def write(self, digest: Digest, data: bytes) -> None:
        self.memory.write(digest, data)

    async def commit(self, digest: Digest) -> None:
        self.memory.end(digest)

    async def fail(self, digest: Digest) -> None:
        self.memory.end(digest)

    async def close(self) -> None:
        pass


class LayoutPulling:
    """LayoutIngests, and a LayoutWriter as in `pull`."""

    def __init__(self, folder: Path) -> None:
        self.writer = images.write_layout(folder / "layout", {})
        self.parts: dict[Digest, BlobWriter] = {}
        self.ingests: Ingests = LayoutIngests(root=folder / "layout")

    async def begin(self, digest: Digest, total: int) -> None:
        self.parts[digest] = self.writer.begin(digest, total)

    async def write(self, digest: Digest, data: bytes) -> None:
        self.parts[digest].write(data)

    async def commit(self, digest: Digest) -> None:
        part = self.parts.pop(digest)
        part.commit()
        part.close()

    async def fail(self, digest: Digest) -> None:
        self.parts.pop(digest).close()

    async def close(self) -> None:
        for part in self.parts.values():
            part.close()


class ContainerdPulling:
    """ContainerdIngests of a real daemon, and `ctr` streaming into it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ingests: Ingests = ContainerdIngests(
            folder=ContentFolder(daemon.content_path), namespaces=[NAMESPACE]
        )
        self._writers: dict[Digest, asyncio.subprocess.Process] = {}

    @classmethod
    async def start(cls) -> Self:
        daemon = Daemon(folder=Path(tempfile.mkdtemp(prefix="spegel-")), has_cri=False)
        await daemon.start()
        return cls(daemon)

    async def begin(self, digest: Digest, total: int) -> None:
        await self._discard(f"layer-{digest}")
        self._writers[digest] = await asyncio.create_subprocess_exec(
            *("ctr", "-a", str(self.daemon.socket), "-n", NAMESPACE, "content", "ingest"),
            *("--expected-size", str(total), "--expected-digest", str(digest), f"layer-{digest}"),
            stdin=asyncio.subprocess.PIPE,
        )

        async def is_there() -> bool:
            try:
                async with self.ingests.open(digest):
                    return True
            except ContentNotFound:
                return False

        await until(is_there)

    async def write(self, digest: Digest, data: bytes) -> None:
        stdin = self._writers[digest].stdin
        assert stdin is not None
        stdin.write(data)
        await stdin.drain()

    async def commit(self, digest: Digest) -> None:
        writer = self._writers.pop(digest)
        await writer.communicate(b"")  # with nothing to say 3.11 would not close it
        assert writer.returncode == 0

    async def fail(self, digest: Digest) -> None:
        writer = self._writers.pop(digest)
        writer.kill()
        await writer.wait()

    async def close(self) -> None:
        for digest in list(self._writers):
            await self.fail(digest)
        await self.daemon.stop()
        shutil.rmtree(self.daemon.folder)

    async def _discard(self, name: str) -> None:
        """Delete what a writer that died has left: `ctr` cannot go on where it stopped."""
        async with Client(socket=self.daemon.socket, namespace=NAMESPACE) as client:

            async def is_discarded() -> bool:
                try:
                    await abort(client, name)
                except Locked:  # containerd has not noticed yet that it died
                    return False
                return True

            await until(is_discarded)
