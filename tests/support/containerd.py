"""A real containerd for a test: its own root, state and socket, no systemd, nothing shared with the
machine's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from spegel_py.errors import SpegelError
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.grpc_client import Client
from tests.support import images
from tests.support.processes import Process, run

CONTAINERD = os.environ.get("CONTAINERD_BIN", "containerd")
"""The daemon under test; set CONTAINERD_BIN to try another version."""

NAMESPACE = "k8s.io"

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [{disabled}]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  [plugins."io.containerd.grpc.v1.cri".containerd]
    discard_unpacked_layers = {discards}
    # containerd 2.1 takes the line above over from a version 2 file only where a runtime is named
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/certs.d"
# containerd 2.1 and later fetch a layer in parts of so many bytes at a time, others ignore it
[plugins."io.containerd.cri.v1.images"]
  concurrent_layer_fetch_buffer = {part}
[plugins."io.containerd.transfer.v1.local"]
  concurrent_layer_fetch_buffer = {part}
"""

# NRI listens on one socket for the whole machine, so that a second daemon of 2.x has no CRI
_DISABLED = [
    "io.containerd.nri.v1.nri",
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")),
]


class Daemon:
    """One containerd. `prefix` is put before every command, to run it in a network namespace.

    Where it `discards_layers`, a pull through the CRI leaves only manifest and config, as some
    clouds set it. It asks for layers in parts of `part` bytes, if that is not 0 and its version
    can.
    """

    def __init__(
        self,
        *,
        folder: Path,
        has_cri: bool = True,
        discards_layers: bool = False,
        part: int = 0,
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.socket = folder / "c.sock"
        self.content_path = folder / "root" / "io.containerd.content.v1.content"
        self.certs = folder / "certs.d"
        self._prefix = tuple(prefix)
        disabled = [*_DISABLED, *([] if has_cri else ["io.containerd.grpc.v1.cri"])]
        self.certs.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(
            _CONFIG.format(
                folder=folder,
                socket=self.socket,
                disabled=", ".join(f'"{name}"' for name in disabled),
                discards=str(discards_layers).lower(),
                part=part,
            )
        )
        self.process = Process(
            command=[
                *self._prefix,
                CONTAINERD,
                "--config",
                str(folder / "config.toml"),
                "--log-level",
                "debug",
            ],
            log=folder / "containerd.log",
        )

    def __repr__(self) -> str:
        return f"<Daemon {self.folder} {self.process!r}>"

    async def start(self) -> None:
        """Start it, with what it held before, and wait until it answers."""
        async with Client(socket=self.socket, timeout=1.0) as client:

            async def answers() -> bool:
                try:
                    await client.images()
                except SpegelError:
                    return False
                return True

            await self.process.start(answers)

    async def stop(self) -> None:
        """End it in good order."""
        await self.process.end()

    async def kill(self) -> None:
        """End it as a crash does."""
        await self.process.end(signal.SIGKILL)

    def forget(self) -> None:
        """Remove all it holds, as on a machine where it never ran; it must not run."""
        for name in ("root", "state"):
            shutil.rmtree(self.folder / name)
        self.socket.unlink(missing_ok=True)

    async def ctr(self, *arguments: str, namespace: str = NAMESPACE, deadline: float = 60.0) -> str:
        """Run `ctr` against it and return what it wrote."""
        return await run(
            *self._prefix,
            "ctr",
            "-a",
            str(self.socket),
            "-n",
            namespace,
            *arguments,
            deadline=deadline,
        )

    async def load(self, these: dict[str, Image], *, namespace: str = NAMESPACE) -> None:
        """Import images, all platforms of them, under their full tag names."""
        with tempfile.TemporaryDirectory() as folder:
            archive = await asyncio.to_thread(
                images.write_archive, Path(folder) / "images.tar", these
            )
            await self.ctr(
                "images",
                "import",
                "--all-platforms",
                "--no-unpack",
                str(archive),
                namespace=namespace,
            )

    async def version(self) -> tuple[int, ...]:
        """Return its version's two first numbers, as in (1, 6)."""
        async with Client(socket=self.socket) as client:
            return tuple(map(int, (await client.version()).removeprefix("v").split(".")[:2]))

    async def content(self) -> set[str]:
        """Return the digests of all blobs that k8s.io holds."""
        return set((await self.ctr("content", "ls", "-q")).split())

    def path(self, digest: Digest) -> Path:
        """Return the file of a blob."""
        return self.content_path / "blobs" / digest.algorithm / digest.hex


@asynccontextmanager
async def running_daemon() -> AsyncIterator[Daemon]:
    """Run a containerd without the CRI; its folder goes at the end.

    The folder's name is short because a socket's path must be.
    """
    with tempfile.TemporaryDirectory(prefix="spegel-") as folder:
        daemon = Daemon(folder=Path(folder), has_cri=False)
        await daemon.start()
        try:
            yield daemon
        finally:
            await daemon.stop()
