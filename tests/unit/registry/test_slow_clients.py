"""Slots are for whoever is not this node's own runtime, whatever a header says, and for clients
that read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from spegel_py.errors import Busy
from spegel_py.metrics import NodeMetrics
from spegel_py.registry import transfer_limits as limits_module
from spegel_py.registry.transfer_limits import (
    CONTENDED,
    LEAST_RATE,
    PATIENCE,
    PATIENCE_WITH_NODES,
    TransferLimits,
    TransferSlot,
)
from spegel_py.transfer.sender import Sender
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient

LARGE = bytes(range(251)) * 160_000  # more than kernels buffer
SMALL = b"small" * 100
MIRRORED = "X-Spegel-Mirrored: true"
ANOTHER_HOST = "127.0.0.2"


class Clock:
    """Monotonic seconds, as the test lets them pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeReader:
    """A client that was waited for all the time, and reads at a rate."""

    def __init__(self, clock: Clock, rate: float, *, is_waited_for: bool = True) -> None:
        self._clock = clock
        self._began = clock.now
        self._is_waited_for = is_waited_for
        self.rate = rate
        self.is_dropped = False

    @property
    def waited(self) -> float:
        return self._clock.now - self._began if self._is_waited_for else 0.0

    @property
    def taken(self) -> int:
        return int((self._clock.now - self._began) * self.rate)

    def drop(self) -> None:
        self.is_dropped = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def small(clock: Clock) -> TransferLimits:
    return TransferLimits(
        per_peer=2, overall=3, growing=1, metrics=NodeMetrics().server, clock=clock
    )


def served(slot: TransferSlot, reader: FakeReader) -> FakeReader:
    slot.reader = reader
    return reader


def refuse(limits: TransferLimits, address: str, **options: Any) -> None:
    with pytest.raises(Busy), limits.admit(address, **options):
        pass


def test_who_hardly_reads_is_hung_up_once_others_are_refused(
    clock: Clock, stack: ExitStack
) -> None:
    """Not before, and nobody who reads, or who waits for this node."""
    limits = small(clock)
    slots = [stack.enter_context(limits.admit(name, is_node=False)) for name in "abc"]
    slow = served(slots[0], FakeReader(clock, LEAST_RATE / 2))
    quick = served(slots[1], FakeReader(clock, LEAST_RATE * 2))
    waiting = served(slots[2], FakeReader(clock, 0, is_waited_for=False))
    clock.now += 10 * PATIENCE
    limits.hang_up_slow()
    assert not slow.is_dropped
    refuse(limits, "d")
    assert (slow.is_dropped, quick.is_dropped, waiting.is_dropped) == (True, False, False)


def test_another_node_has_more_time_for_its_own_client(clock: Clock, stack: ExitStack) -> None:
    """Whose connection it hangs up itself, so that nobody takes this node for broken."""
    limits = small(clock)
    slot = stack.enter_context(limits.admit("a"))
    stack.enter_context(limits.admit("a"))
    reader = served(slot, FakeReader(clock, 0))
    clock.now += PATIENCE + 1
    refuse(limits, "a")
    assert not reader.is_dropped
    clock.now += PATIENCE_WITH_NODES - PATIENCE
    limits.hang_up_slow()
    assert reader.is_dropped


def test_only_those_are_hung_up_whose_slots_are_wanted(clock: Clock, stack: ExitStack) -> None:
    """The bound of one address is no matter of another one, nor that of what grows one of what is
    whole.
    """
    limits = small(clock)
    readers = {}
    for name, address, grows in (
        ("a1", "a", False),
        ("a2", "a", False),
        ("b", "b", False),
        ("growing", "c", True),
    ):
        slot = stack.enter_context(limits.admit(address, grows=grows, is_node=False))
        readers[name] = served(slot, FakeReader(clock, 0))
    with_runtime = served(stack.enter_context(limits.relay("here")), FakeReader(clock, 0))
    clock.now += PATIENCE + 1

    def dropped() -> set[str]:
        return {name for name, reader in readers.items() if reader.is_dropped}

    refuse(limits, "x", grows=True)
    assert dropped() == {"growing"}
    limits._contended.clear()
    clock.now += PATIENCE + 1
    limits._contend(("peer", "a"))
    assert dropped() == {"growing", "a1", "a2"}
    clock.now += CONTENDED + 1
    limits.hang_up_slow()
    assert "b" not in dropped()
    refuse(limits, "x")
    assert dropped() == set(readers)
    assert not with_runtime.is_dropped


def test_what_is_relayed_is_hung_up_where_a_peer_had_no_slot(
    clock: Clock, stack: ExitStack
) -> None:
    """To the own runtime too: it holds slots that its other pulls, and other clients, are
    refused.
    """
    limits = small(clock)
    relayed = served(stack.enter_context(limits.relay("here")), FakeReader(clock, 0))
    other = served(
        stack.enter_context(limits.admit("a", relays=True, is_node=False)), FakeReader(clock, 0)
    )
    whole = served(stack.enter_context(limits.admit("a", is_node=False)), FakeReader(clock, 0))
    clock.now += PATIENCE + 1
    limits.refused_by_a_peer()
    assert (relayed.is_dropped, other.is_dropped, whole.is_dropped) == (True, True, False)


def test_one_address_cannot_have_all_slots_of_this_node_at_a_peer(
    clock: Clock, stack: ExitStack
) -> None:
    """It gets half of what it may have here relayed; at least one, and any number without a
    limit.
    """
    limits = TransferLimits(per_peer=4, overall=0, metrics=NodeMetrics().server, clock=clock)
    for _ in range(2):
        stack.enter_context(limits.admit("a", relays=True))
    refuse(limits, "a", relays=True)
    stack.enter_context(limits.admit("a"))
    stack.enter_context(limits.admit("b", relays=True))
    stack.enter_context(
        TransferLimits(per_peer=1, overall=0, metrics=NodeMetrics().server).admit("a", relays=True)
    )
    unlimited = TransferLimits(per_peer=0, overall=0, metrics=NodeMetrics().server)
    for _ in range(100):
        stack.enter_context(unlimited.admit("a", relays=True))


def test_nothing_is_kept_of_transfers_that_are_over(clock: Clock) -> None:
    """Nor of refusals that are long ago."""
    limits = small(clock)
    for number in range(100):
        with limits.admit(f"a{number}", relays=True), limits.relay("here"):
            limits._contend(("peer", f"a{number}"))
    assert not limits._slots
    assert not limits._relayed
    clock.now += CONTENDED + 1
    limits.hang_up_slow()
    assert not limits._contended


# Over sockets


async def connect(node: Node, address: str = ANOTHER_HOST) -> RawClient:
    """Return a connection from another address of the loopback network."""
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port, local_addr=(address, 0))
    client = RawClient(reader, writer)
    node.clients.append(client)
    return client


async def begin(client: RawClient, target: str, *lines: str) -> None:
    """Ask for something, and read its beginning only."""
    client.writer.write("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode())
    await client.reader.readexactly(1000)


@pytest.mark.parametrize(
    ("address", "lines", "status"),
    [
        pytest.param(ANOTHER_HOST, [], 503, id="without a header"),
        pytest.param(ANOTHER_HOST, [MIRRORED], 503, id="another node"),
        pytest.param(ANOTHER_HOST, ["X-Spegel-Node: node-2"], 503, id="another node's runtime"),
        pytest.param(
            "127.0.0.1",
            ["X-Spegel-Node: node-2"],
            503,
            id="another node's runtime through this host",
        ),
        pytest.param(
            ANOTHER_HOST, ["X-Spegel-Node: node-1"], 200, id="the own runtime through a host port"
        ),
        pytest.param("127.0.0.1", [], 200, id="the own runtime"),
    ],
)
async def test_the_limits_are_for_all_but_the_own_runtime(
    address: str, lines: list[str], status: int, start: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever leaves out the header of a node is limited as well, in number and in rate."""
    rated: list[bool] = []
    send = Sender.send

    async def seen(self: Sender, *args: Any, to_peer: bool) -> None:
        rated.append(to_peer)
        await send(self, *args, to_peer=to_peer)

    monkeypatch.setattr(Sender, "send", seen)
    async with start(
        node="node-1", limits=TransferLimits(per_peer=1, overall=1, metrics=NodeMetrics().server)
    ) as node:
        large, small = (f"/v2/app/blobs/{node.store.add(data)}?ns=r.io" for data in (LARGE, SMALL))
        await begin(await connect(node), large)
        assert (await (await connect(node, address)).ask("GET", small, *lines)).status == status
    assert rated == [True] + [False] * (status == 200)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge clients within a fraction of a second."""
    monkeypatch.setattr(limits_module, "PATIENCE", 0.3)
    monkeypatch.setattr(limits_module, "PATIENCE_WITH_NODES", 0.6)
    monkeypatch.setattr(limits_module, "CHECK_INTERVAL", 0.05)


@pytest.mark.usefixtures("hasty")
async def test_a_slot_is_not_held_by_a_client_that_does_not_read(start: NodeFactory) -> None:
    """Once another one was refused; a client that reads at any pace keeps its own."""
    async with start(
        limits=TransferLimits(per_peer=0, overall=2, metrics=NodeMetrics().server)
    ) as node:
        target = f"/v2/app/blobs/{node.store.add(LARGE)}?ns=r.io"
        idle, reading = await connect(node), await connect(node, "127.0.0.3")
        for client in (idle, reading):
            await begin(client, target)

        async def read() -> None:
            while True:
                assert await reading.reader.read(400_000), "it was hung up, or has all"
                await asyncio.sleep(0.02)

        going_on = asyncio.create_task(read())
        statuses = list[int]()
        async with asyncio.timeout(10):
            while not statuses or statuses[-1] != 206:
                client = await connect(node, "127.0.0.4")
                statuses.append((await client.ask("GET", target, "Range: bytes=0-9")).status)
                await asyncio.sleep(0.02)
        assert statuses[0] == 503
        assert set(statuses) == {503, 206}
        assert len(await idle.end()) < len(LARGE) - 1000
        assert not going_on.done()
        going_on.cancel()


@pytest.mark.usefixtures("hasty")
async def test_slow_clients_of_a_relaying_node_do_not_hold_its_slots_at_a_peer(
    start: NodeFactory,
) -> None:
    """The next client is told that nobody has it, and after a moment the one after that is
    served.
    """
    one = TransferLimits(per_peer=1, overall=0, metrics=NodeMetrics().server)
    async with start("a", limits=one, node="node-a") as a, start("b", node="node-b") as b:
        digest = a.store.add(LARGE)
        await a.network.join(a.peer).advertise([str(digest)])
        target = f"/v2/app/blobs/{digest}?ns=r.io"
        await begin(await b.client(), target)
        statuses = list[int]()
        async with asyncio.timeout(20):
            while not statuses or statuses[-1] != 200:
                client = await b.client()
                client.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = await client.reader.readuntil(b"\r\n\r\n")
                statuses.append(int(head.split()[1]))
                client.close()
                await asyncio.sleep(0.05)
        assert set(statuses[:-1]) <= {404}
        failed = await b.counted("spegel_peer_attempts_total")
        assert set(failed) <= {("busy",), ("abandoned",), ("ok",)}
