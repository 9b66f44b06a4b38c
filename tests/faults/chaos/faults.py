"""The faults of chaos: processes that end, links that break, content that is damaged.

The node that serves is the seed that has sent the most. "Own" processes are the puller's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from spegel_py.oci.build import Blob
from tests.faults.chaos.round import Fault, FaultUnsupported, Round
from tests.faults.primitives import (
    NodeFault,
    containerd_restarted,
    filtered,
    frozen,
    kill,
    killed,
    on_all,
    terminated,
    unplugged,
)
from tests.integration.cluster import metric
from tests.support.lab import Node
from tests.support.processes import CommandFailed, run, until


def _at_server(fault: NodeFault, *, is_honest: bool = False) -> Fault:
    """Return the fault of the node that serves; the last seed is left out if it must be honest."""

    @asynccontextmanager
    async def broken(this_round: Round) -> AsyncIterator[None]:
        seeds = this_round.cluster.seeds
        async with fault(await this_round.server(seeds[:-1] if is_honest else seeds)):
            yield

    return broken


def _at_pullers(fault: NodeFault) -> Fault:
    return lambda this_round: on_all(this_round.pullers, fault)


@asynccontextmanager
async def _connections_reset(node: Node) -> AsyncIterator[None]:
    """Reset every connection to a node's registry port."""
    if "RTNETLINK" in await run(*node.namespace.prefix, "ss", "-K", "-tn", "sport = :5000"):
        raise FaultUnsupported("this kernel closes no sockets of others")
    yield


# Processes

server_killed = _at_server(killed)
honest_server_killed = _at_server(killed, is_honest=True)
server_stopped = _at_server(frozen)
server_containerd_restarted = _at_server(containerd_restarted)
own_killed = _at_pullers(killed)
own_ended = _at_pullers(terminated)
own_containerd_restarted = _at_pullers(containerd_restarted)


def all_killed(this_round: Round) -> AbstractAsyncContextManager[None]:
    """Kill every node that has the image."""
    return on_all(this_round.cluster.seeds, killed)


# Links

server_unplugged = _at_server(unplugged)
server_cut_off = _at_server(lambda node: filtered(node, "drop"))
"""Drop every packet to and from the node that serves, as a broken switch does."""
server_reset = _at_server(_connections_reset)
server_trickling = _at_server(lambda node: node.namespace.throttled("128kbit", burst="16kbit"))
"""Let the node that serves send 16 kB a second."""
routers_cut_off = _at_pullers(
    lambda node: filtered(node, "tcp dport 5001 drop", "tcp sport 5001 drop")
)
"""Drop all packets between the pullers' router ports and their peers'."""


@asynccontextmanager
async def nobody_known(this_round: Round) -> AsyncIterator[None]:
    """Cut the routers off, and wait until the pullers have forgotten all holders."""
    async with routers_cut_off(this_round):

        async def have_none() -> bool:
            held = [await metric(node, "spegel_records_held") for node in this_round.pullers]
            return not any(held)

        await until(have_none, deadline=30.0, pause=0.2)
        yield


@asynccontextmanager
async def registry_down(this_round: Round) -> AsyncIterator[None]:
    """Stop the registry."""
    await this_round.cluster.lab.registry.stop()
    try:
        yield
    finally:
        await this_round.cluster.lab.registry.start()


def registry_slow(this_round: Round) -> AbstractAsyncContextManager[None]:
    """Let the registry send 125 kB a second: the image would take minutes."""
    return this_round.cluster.lab.registry.namespace.throttled("1mbit", burst="16kbit")


# Content


def small_corrupted(this_round: Round) -> AbstractAsyncContextManager[None]:
    """Change a byte of every small layer, at all seeds but one."""
    cluster = this_round.cluster
    return _damaged(cluster.seeds[:-1], cluster.small, _corrupt)


def large_corrupted(this_round: Round) -> AbstractAsyncContextManager[None]:
    """Change a byte of the large layer at every seed: only the registry has the right one."""
    return _damaged(this_round.cluster.seeds, this_round.cluster.large, _corrupt)


def large_truncated(this_round: Round) -> AbstractAsyncContextManager[None]:
    """Cut off the second half of the large layer, as a power cut may, at all seeds but one."""
    cluster = this_round.cluster
    return _damaged(cluster.seeds[:-1], cluster.large, _truncate)


@asynccontextmanager
async def server_truncated(this_round: Round) -> AsyncIterator[None]:
    """Cut off the second half of every layer at the node that serves, while it reads them.

    The kernel zeroes the rest of a folio of its page cache, even if sendfile has queued the folio
    already. The client then receives zeros, followed by the right bytes of another peer.
    """
    async with _damaged([await this_round.server()], this_round.cluster.layers, _truncate):
        yield


@asynccontextmanager
async def server_emptied(this_round: Round) -> AsyncIterator[None]:
    """Delete every layer at the node that serves."""
    layers = this_round.cluster.layers
    async with _damaged([await this_round.server()], layers, lambda path, _: path.unlink()):
        yield


def _corrupt(path: Path, data: bytes) -> None:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    path.write_bytes(changed)


def _truncate(path: Path, data: bytes) -> None:
    os.truncate(path, len(data) // 2)


@asynccontextmanager
async def _damaged(
    nodes: Sequence[Node], blobs: Sequence[Blob], damage: Callable[[Path, bytes], None]
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
            await kill(node)  # a node remembers the blobs that it found damaged


# Disks


class FailingDisks:
    """The disks of two seeds: `mounted` is entered before the pull, and `failing` breaks them."""

    def __init__(self) -> None:
        self._images: list[Path] = []

    @asynccontextmanager
    async def mounted(self, this_round: Round) -> AsyncIterator[None]:
        """Move the blobs of two seeds to a filesystem on a loop device each."""
        with tempfile.TemporaryDirectory(prefix="disk-") as folder:
            async with AsyncExitStack() as stack:
                for node in this_round.cluster.seeds[:-1]:
                    self._images.append(Path(folder, node.address))
                    await stack.enter_async_context(_mounted(node, self._images[-1]))
                stack.callback(self._images.clear)
                yield

    @asynccontextmanager
    async def failing(self, this_round: Round) -> AsyncIterator[None]:
        """Truncate the files below the loop devices: reading an uncached page is then an EIO."""
        for image in self._images:
            os.truncate(image, 1_000_000)
        yield


@asynccontextmanager
async def _mounted(node: Node, image: Path) -> AsyncIterator[None]:
    blobs = str(node.daemon.content_path / "blobs" / "sha256")
    await run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", blobs, str(image), "160M")
    try:
        await run("mount", "-o", "loop,ro", str(image), blobs)
    except CommandFailed as error:
        raise FaultUnsupported("no loop devices here") from error
    try:
        yield
    finally:
        await run("umount", "--lazy", blobs)
        await kill(node)  # a node may remember that it could not read its content
