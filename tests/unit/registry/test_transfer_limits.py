"""Transfers to other nodes beyond the limits: refused so that they ask elsewhere, while clients are
always served.
"""

from __future__ import annotations

import pytest

from spegel_py.errors import Busy
from spegel_py.metrics import NodeMetrics
from spegel_py.registry.transfer_limits import TransferLimits
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient

LARGE = bytes(range(251)) * 160_000  # more than kernels buffer
SMALL = b"small" * 100
MIRRORED = "X-Spegel-Mirrored: true"


def limits(*, per_peer: int = 0, overall: int = 0, growing: int = 0) -> TransferLimits:
    return TransferLimits(
        per_peer=per_peer, overall=overall, growing=growing, metrics=NodeMetrics().server
    )


def test_one_address_gets_no_more_than_its_share() -> None:
    """Beyond its limit one peer is refused while another is admitted, until one of its transfers
    has ended.
    """
    some = limits(per_peer=2)
    with some.admit("a"):
        with some.admit("a"):
            with pytest.raises(Busy), some.admit("a"):
                pass
            with some.admit("b"):
                pass
        with some.admit("a"):
            pass


def test_all_together_get_no_more_than_there_is() -> None:
    """Beyond the limit over all, a peer is refused however little it has; what was refused counts
    for nothing.
    """
    some = limits(overall=1)
    for _ in range(2):
        with some.admit("a"), pytest.raises(Busy), some.admit("b"):
            pass


def test_strangers_cannot_take_the_slots_of_proven_peers() -> None:
    """Once a peer has proved its id, all other clients together get half of the slots."""
    some = limits(per_peer=2, overall=4)
    with some.admit("a"), some.admit("b"), some.admit("c"):
        with some.admit("a", proven="P"):
            assert some.under_way == {"a": 2, "b": 1, "c": 1}
        with pytest.raises(Busy), some.admit("d"):
            pass
    with some.admit("a"), some.admit("b"):
        with pytest.raises(Busy), some.admit("c"):
            pass
        with (
            some.admit("a", proven="P"),
            some.admit("a", proven="P"),
            pytest.raises(Busy),
            some.admit("a", proven="P"),
        ):
            pass
    with some.admit("a"), some.admit("b"):
        pass


def test_what_still_grows_has_slots_of_its_own() -> None:
    """It takes no room from what is whole, nor that from it."""
    some = limits(per_peer=1, overall=1, growing=2)
    with some.admit("a", grows=True), some.admit("a", grows=True):
        assert some.under_way == {"a": 2}
        with pytest.raises(Busy, match="still being pulled"), some.admit("b", grows=True):
            pass
        with some.admit("b"), pytest.raises(Busy, match="to peers"), some.admit("c"):
            pass
    with some.admit("a", grows=True):
        pass
    assert some.under_way == {}


def test_nothing_is_remembered_of_who_has_left() -> None:
    """Addresses do not add up; while they are there, it is known how many transfers go to each."""
    some = limits(per_peer=1)
    for number in range(10):
        with some.admit(str(number)):
            assert some.under_way == {str(number): 1}
    assert repr(some) == "<Limits 0 transfers to 0 peers>"


async def begin(node: Node, target: str, *lines: str) -> RawClient:
    """Have a client ask for something that it does not read yet."""
    client = await node.client()
    client.writer.write("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
    await client.reader.readexactly(1000)
    return client


async def test_a_peer_beyond_its_limit_is_told_to_go_elsewhere(start: NodeFactory) -> None:
    """503 with the spec's JSON, at once; what is no transfer is answered, and clients are never
    refused.
    """
    async with start(limits=limits(per_peer=1)) as node:
        large, small = (f"/v2/app/blobs/{node.store.add(data)}?ns=r.io" for data in (LARGE, SMALL))
        busy = await begin(node, large, MIRRORED)
        client = await node.client()
        refused = await client.ask("GET", small, MIRRORED)
        assert (refused.status, refused.error["code"]) == (503, "UNAVAILABLE")
        assert (await client.ask("HEAD", small, MIRRORED)).status == 200
        assert (await client.ask("GET", small)).body == SMALL
        missing = await client.ask("GET", small[:-12] + "0000" + small[-8:], MIRRORED)
        assert missing.status == 404
        busy.writer.transport.abort()
        while (await client.ask("GET", small, MIRRORED)).status != 200:
            pass


async def test_a_busy_peer_is_no_miss_for_the_client(start: NodeFactory) -> None:
    """Where the one peer is busy the client is told that nobody has it, and goes upstream."""
    async with start("a", limits=limits(overall=1)) as a, start("b") as b:
        digest = a.store.add(SMALL)
        await a.network.join(a.peer).advertise([str(digest)])
        await begin(a, f"/v2/app/blobs/{a.store.add(LARGE)}?ns=r.io", MIRRORED)
        answer = await (await b.client()).ask("GET", f"/v2/app/blobs/{digest}?ns=r.io")
        assert (answer.status, answer.error["code"]) == (404, "BLOB_UNKNOWN")
        assert await b.counted("spegel_peer_attempts_total") == {("busy",): 1}


async def test_transfers_and_refusals_are_counted(start: NodeFactory) -> None:
    """The gauge shows what is under way, the counter which limit was reached."""
    async with start() as node:
        some = TransferLimits(per_peer=1, overall=2, metrics=node.metrics.server)
        with some.admit("a"), some.admit("b"):
            assert node.samples("spegel_peer_transfers") == {(): 2}
            with pytest.raises(Busy), some.admit("c"):
                pass
        with some.admit("a"), pytest.raises(Busy), some.admit("a"):
            pass
        assert await node.counted("spegel_peer_transfers") == {}
        assert await node.counted("spegel_peer_transfers_refused_total") == {
            ("overall",): 1,
            ("peer",): 1,
        }
