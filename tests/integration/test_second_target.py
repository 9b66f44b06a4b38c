"""containerd asks every mirror in hosts.toml before the registry: no order of mirrors may keep its
first pull waiting.

The runtime that is to fetch an image for all nodes gets a 404 from its own registry, and asks the
next mirror, which is another node's. That node must not send it to the download that the same
runtime is about to begin.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import pytest

from tests.integration.cluster import everybody, joined, metric, publish, registry_away
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node, start_lab
from tests.support.processes import run

pytestmark = pytest.mark.root

FIRST_STALL = 3.0
"""Seconds after which a node gives up waiting for a peer's first byte: a pull that waits for itself
takes longer.
"""

LAYERS = 4


def by_hand(node: Node, targets: Sequence[str]) -> None:
    """Write a hosts.toml as an older version, Spegel or a person does: it names no node."""
    tables = [f'[host."{target}"]\n  capabilities = ["pull", "resolve"]\n' for target in targets]
    file = node.daemon.certs / REGISTRY / "hosts.toml"
    file.write_text(f'server = "http://{REGISTRY}"\n' + "".join(tables))


async def by_command(node: Node, targets: Sequence[str]) -> None:
    """Have `spegel-py configuration` write the hosts.toml."""
    await run(
        *(sys.executable, "-m", "spegel_py", "configuration", "--node-name", name_of(node)),
        *("--containerd-registry-config-path", str(node.daemon.certs)),
        *("--mirrored-registries", f"http://{REGISTRY}", "--mirror-targets", *targets),
    )


def name_of(node: Node) -> str:
    return f"node-{node.address.rpartition('.')[2]}"


async def start(lab: Lab) -> None:
    """Start spegel-py on all nodes, each under a name of its own."""
    for node in lab.nodes:
        await node.start_spegel(static_bootstrap_peers=everybody(lab), node_name=name_of(node))
    await joined(*lab.nodes)


ORDERS: dict[str, tuple[list[int | None], list[int | None]]] = {
    "own, other": ([0, 1], [1, 0]),
    "other, own": ([1, 0], [0, 1]),
    "other": ([1], [0]),
    "own, own by another address": ([0, None], [1, None]),
    "own, third, other": ([0, 2, 1], [1, 2, 0]),
}
"""The nodes whose registries the first and the second node ask, by name of the order; None is their
own loopback.
"""


def urls(lab: Lab, order: Sequence[int | None]) -> list[str]:
    return [
        f"http://{'127.0.0.1' if each is None else lab.nodes[each].address}:5000" for each in order
    ]


@pytest.mark.parametrize("is_by_hand", [True, False], ids=["by hand", "by command"])
async def test_a_first_pull_never_waits_for_itself(is_by_hand: bool) -> None:
    """Two nodes pull an image that nobody has, with each order of mirrors, one after the other and
    both at once.
    """
    async with start_lab(nodes=3) as lab:
        await start(lab)
        for number, (order, lists) in enumerate(ORDERS.items()):
            for node, each in zip(lab.nodes, lists, strict=False):
                if is_by_hand:
                    by_hand(node, urls(lab, each))
                else:
                    await by_command(node, urls(lab, each))
            for crowd in (lab.nodes[:1], lab.nodes[:2]):
                reference = lab.name(f"test/app:{number}-{len(crowd)}")
                await lab.registry.push(reference, image(reference, layers=LAYERS, size=300_000))
                seconds = await asyncio.gather(*(timed_pull(node, reference) for node in crowd))
                assert max(seconds) < FIRST_STALL, (order, len(crowd), seconds)
        stalled = [
            await metric(node, "spegel_peer_attempts_total", outcome="stalled")
            for node in lab.nodes
        ]
        assert stalled == [0.0, 0.0, 0.0]


@pytest.mark.containerd
async def test_a_second_target_serves_what_is_complete_while_the_own_registry_is_away() -> None:
    """It relays the image from the node that holds it, as the own registry would have done."""
    async with start_lab(nodes=3) as lab:
        await start(lab)
        holder, other, node = lab.nodes
        await by_command(node, [f"http://{node.address}:5000", f"http://{other.address}:5000"])
        reference = lab.name("test/app:fallback")
        await publish(lab, reference, image("fallback"), holder)
        assert node.spegel is not None
        await node.spegel.end()
        async with registry_away(lab):
            await node.cri.pull(reference)


async def test_a_crowd_with_a_second_target_fetches_once() -> None:
    """The header that keeps other nodes' runtimes from waiting does not keep a node's own runtime
    from sharing.
    """
    async with start_lab(nodes=3) as lab:
        await start(lab)
        for node, other in zip(lab.nodes, [*lab.nodes[1:], lab.nodes[0]], strict=True):
            await by_command(node, [f"http://{node.address}:5000", f"http://{other.address}:5000"])
        reference, app = lab.name("test/app:crowd"), image("crowd", layers=2, size=4_000_000)
        await lab.registry.push(reference, app)
        async with lab.registry.namespace.throttled("50mbit", burst="64kbit"):
            await asyncio.gather(*(node.cri.pull(reference) for node in lab.nodes))
        fetched = [
            one.path
            for one in lab.registry.requests("GET")
            if one.status == 200 and one.size > 1_000_000
        ]
        assert len(fetched) == len(set(fetched)) == 2


async def timed_pull(node: Node, reference: str) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await node.cri.pull(reference)
    return loop.time() - began
