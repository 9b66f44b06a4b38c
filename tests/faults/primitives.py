"""Faults of a single node, from which chaos, crowd and drill build theirs.

Each breaks the node on entry. `frozen`, `unplugged`, `filtered` and `halved` mend it on exit; an
ended process is left to the caller.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import spegel_py
from tests.support.lab import Node
from tests.support.namespaces import Namespace
from tests.support.processes import Process, run

NodeFault = Callable[[Node], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def on_all(nodes: Collection[Node], fault: NodeFault) -> AsyncIterator[None]:
    """Break all these nodes at once."""
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(fault(node)) for node in nodes))
        yield


async def kill(node: Node, number: signal.Signals = signal.SIGKILL) -> None:
    """End a node's spegel-py by a signal."""
    assert node.spegel
    await node.spegel.end(number)


@asynccontextmanager
async def killed(node: Node) -> AsyncIterator[None]:
    """Kill a node's spegel-py, as a crash does."""
    await kill(node)
    yield


@asynccontextmanager
async def terminated(node: Node) -> AsyncIterator[None]:
    """Ask a node's spegel-py to end, as an upgrade does."""
    assert node.spegel
    node.spegel.send(signal.SIGTERM)
    yield


@asynccontextmanager
async def containerd_restarted(node: Node) -> AsyncIterator[None]:
    """Kill a node's containerd, and start it again."""
    await node.daemon.kill()
    await node.daemon.start()
    yield


@asynccontextmanager
async def frozen(node: Node) -> AsyncIterator[None]:
    """Stop a node's spegel-py: its connections stay, and nothing comes."""
    assert node.spegel
    node.spegel.send(signal.SIGSTOP)
    try:
        yield
    finally:
        node.spegel.send(signal.SIGCONT)


@asynccontextmanager
async def unplugged(node: Node) -> AsyncIterator[None]:
    """Pull a node's network cable."""
    await node.namespace.plug(is_in=False)
    try:
        yield
    finally:
        await node.namespace.plug(is_in=True)


@asynccontextmanager
async def filtered(node: Node, *rules: str) -> AsyncIterator[None]:
    """Apply these nft rules to all packets that enter or leave a node."""
    body = "\n".join(rules)
    chains = "\n".join(
        f"chain {hook} {{\ntype filter hook {hook} priority 0\n{body}\n}}"
        for hook in ("input", "output")
    )
    nft = (*node.namespace.prefix, "nft")
    await run(*nft, f"table ip faults {{\n{chains}\n}}")
    try:
        yield
    finally:
        await run(*nft, "delete table ip faults")


@asynccontextmanager
async def halved(left: Collection[Node], right: Collection[Node]) -> AsyncIterator[None]:
    """Drop every packet between two groups of nodes."""

    def separated(node: Node) -> AbstractAsyncContextManager[None]:
        away = ", ".join(other.address for other in (right if node in left else left))
        return filtered(node, f"ip saddr {{ {away} }} drop")

    async with on_all([*left, *right], separated):
        yield


def python(machine: Namespace, module: str, *arguments: str, log: Path) -> Process:
    """Return the process that runs a Python module on a machine."""
    return Process(
        command=[*machine.prefix, sys.executable, "-m", module, *arguments],
        log=log,
        environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
    )


@asynccontextmanager
async def small_disk(folder: Path, *, size: str) -> AsyncIterator[Path]:
    """Mount a disk of this size, e.g. 256k; a process that still uses it afterwards keeps it."""
    folder.mkdir(parents=True)
    await run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        await run("umount", "-l", str(folder))
