"""Links and connections that break, slow down or lose everything: a node's, and the registry's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from tests.faults.chaos.scene import NotPossible, Scene
from tests.integration.cluster import metric
from tests.lab import Node
from tests.processes import run, until


@asynccontextmanager
async def server_unplugged(scene: Scene) -> AsyncIterator[None]:
    """Pull the cable of the node that serves."""
    node = await scene.server()
    await node.namespace.plug(is_in=False)
    try:
        yield
    finally:
        await node.namespace.plug(is_in=True)


@asynccontextmanager
async def server_cut_off(scene: Scene) -> AsyncIterator[None]:
    """Drop every packet to and from the node that serves, as a broken switch does."""
    async with filtered([await scene.server()], "drop"):
        yield


@asynccontextmanager
async def server_reset(scene: Scene) -> AsyncIterator[None]:
    """Reset every connection to the registry port of the node that serves."""
    node = await scene.server()
    if "RTNETLINK" in await run(*node.namespace.prefix, "ss", "-K", "-tn", "sport = :5000"):
        raise NotPossible("this kernel closes no sockets of others")
    yield


@asynccontextmanager
async def server_trickling(scene: Scene) -> AsyncIterator[None]:
    """Let the node that serves send 16 kB a second."""
    async with (await scene.server()).namespace.throttled("128kbit", burst="16kbit"):
        yield


@asynccontextmanager
async def routers_cut_off(scene: Scene) -> AsyncIterator[None]:
    """Drop what goes to and from the pullers' router ports and their peers'."""
    async with filtered(scene.pullers, "tcp dport 5001 drop", "tcp sport 5001 drop"):
        yield


@asynccontextmanager
async def nobody_known(scene: Scene) -> AsyncIterator[None]:
    """Cut the routers off, and wait until the pullers know nobody any more."""
    async with routers_cut_off(scene):

        async def alone() -> bool:
            return not any([await metric(node, "spegel_records_held") for node in scene.pullers])

        await until(alone, deadline=30.0, pause=0.2)
        yield


# The registry


@asynccontextmanager
async def registry_down(scene: Scene) -> AsyncIterator[None]:
    """Stop the registry."""
    await scene.field.lab.registry.stop()
    try:
        yield
    finally:
        await scene.field.lab.registry.start()


@asynccontextmanager
async def registry_slow(scene: Scene) -> AsyncIterator[None]:
    """Let the registry send 125 kB a second: the image would take minutes."""
    async with scene.field.lab.registry.namespace.throttled("1mbit", burst="16kbit"):
        yield


@asynccontextmanager
async def filtered(nodes: Sequence[Node], *rules: str) -> AsyncIterator[None]:
    """Apply these rules of nft to what comes to the nodes and what leaves them."""
    body = "\n".join(rules)
    chains = "\n".join(
        f"chain {hook} {{\ntype filter hook {hook} priority 0\n{body}\n}}"
        for hook in ("input", "output")
    )
    async with AsyncExitStack() as stack:
        for node in nodes:
            nft = (*node.namespace.prefix, "nft")
            await run(*nft, f"table ip chaos {{\n{chains}\n}}")
            stack.push_async_callback(run, *nft, "delete table ip chaos")
        yield


@asynccontextmanager
async def halved(left: Collection[Node], right: Collection[Node]) -> AsyncIterator[None]:
    """Drop every packet between two groups of nodes while the block lasts."""
    async with AsyncExitStack() as stack:
        for here, there in ((left, right), (right, left)):
            away = ", ".join(node.address for node in there)
            await stack.enter_async_context(filtered(list(here), f"ip saddr {{ {away} }} drop"))
        yield
