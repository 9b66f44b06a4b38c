"""What goes wrong with one peer stays with that peer."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.kademlia import KademliaClient
from spegel_py.routing.libp2p.mesh import Mesh, tolerating
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import LocalKeys

PEER = ID(b"\x00\x01x")


async def _breaks_when_cancelled() -> None:
    """Do what a link does whose stream breaks in the moment it is cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            raise StreamEOF


def test_a_break_together_with_a_cancellation_ends_one_task_only() -> None:
    """A stream that breaks in the moment its task is cancelled raises a group that is no Exception; still it goes
    nowhere, and the cancellation is not swallowed."""

    async def main() -> str:
        scope = trio.CancelScope()

        async def tend() -> None:
            with scope:
                with tolerating("it broke", PEER):
                    await _breaks_when_cancelled()
                raise AssertionError("the cancellation was swallowed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tend)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        return "alive"

    assert trio.run(main) == "alive"


def test_an_interrupt_is_not_tolerated() -> None:
    """What is no Exception goes on."""
    with pytest.raises(BaseExceptionGroup), tolerating("it broke", PEER):
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])


def test_a_node_that_is_leaving_tells_nobody_anew() -> None:
    """Once it says goodbye, a peer that it cannot tell any more is left alone: a hello would take the goodbye back."""

    async def main() -> None:
        mesh = _mesh()
        with trio.fail_after(5):
            await mesh.say_goodbye(timeout=1)
            await mesh._keep_told(PEER)

    trio.run(main)


def _mesh() -> Mesh:
    host = compat.build_host(Ed25519PrivateKey.generate(), announce=[])
    return Mesh(
        host=host,
        table=RecordTable(rng=random.Random(1)),
        local=LocalKeys(),
        kademlia=KademliaClient(host),
        interval=4.0,
        registry_host="",
        registry_port=5000,
        agent="test",
        shares=False,
        limit=128,
        replication=20,
        provider_addresses=list,
        carried=lambda direction, frame, size: None,
        rng=random.Random(1),
    )
