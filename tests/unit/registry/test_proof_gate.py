"""Proofs between a real asking client and a real registry, in every mix of old, new and rogue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from spegel_py.errors import PeerRefused, PeerUnproven
from spegel_py.metrics import NodeMetrics
from spegel_py.oci.range import ByteRange
from spegel_py.registry.proof_gate import ProofGate
from spegel_py.registry.transfer_limits import TransferLimits
from spegel_py.routing.base import Peer
from spegel_py.routing.peer_proofs import (
    PROOF_HEADER,
    NodeSecret,
    PeerKey,
    PeerProofs,
    ProofResult,
)
from spegel_py.tools.basic_auth import Credentials
from spegel_py.transfer.base import Deadlines, PeerRequest
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.peer_prover import PeerProver
from tests.contract.clients import MemorySink
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.conftest import Node, NodeFactory

ASKER = "12D3KooWAsker"
PASSWORD = Credentials(username="user", password="secret")
DATA = bytes(range(256)) * 8192
PATIENT = Deadlines(connect=10, first_byte=10, stall=10)


class Ends:
    """Both ends of proofs: a test sets who is a member, and which key the asker was told."""

    def __init__(self, mode: PeerProofs = PeerProofs.PREFER) -> None:
        self.clock = 100.0
        self.secret = NodeSecret(clock=lambda: self.clock)
        self.key: PeerKey | None = None
        self.members = {ASKER}
        self.requests: Counter[ProofResult] = Counter()
        self.answers: Counter[ProofResult] = Counter()
        self.mode = mode
        self.gate = ProofGate(
            secret=self.secret,
            mode=mode,
            is_member=lambda peer: peer in self.members,
            counted=lambda result: self.requests.update([result]),
        )
        self.tell()

    def tell(self) -> None:
        """Tell the asker a key, as the hello does."""
        self.key = PeerKey.told(self.secret.tell(ASKER), now=self.clock)

    @asynccontextmanager
    async def asking(self, mode: PeerProofs | None = None) -> AsyncIterator[HTTPUpstream]:
        prover = PeerProver(
            own_id=ASKER,
            key_of=lambda _: self.key,
            mode=mode or self.mode,
            counted=lambda result: self.answers.update([result]),
            clock=lambda: self.clock,
        )
        async with HTTPUpstream(
            deadlines=PATIENT, authorization=PASSWORD.header, prover=prover
        ) as upstream:
            yield upstream


async def ask(upstream: HTTPUpstream, peer: Peer, target: str, **fields: object) -> bytes:
    sink = MemorySink()
    request = PeerRequest(target=target, **fields)  # type: ignore[arg-type]
    async with upstream.open(peer, request) as response:
        await response.send(sink)
    return bytes(sink.taken)


def blob(node: Node) -> str:
    return f"/v2/app/blobs/{node.store.add(DATA)}?ns=r.io"


@pytest.mark.parametrize("mode", [PeerProofs.PREFER, PeerProofs.REQUIRE])
async def test_a_proven_peer_is_answered_and_believed(mode: PeerProofs, start: NodeFactory) -> None:
    """Every kind of answer is proven: whole, in part, HEAD, 404, 416 and the probe."""
    ends = Ends(mode)
    async with start(proof_gate=ends.gate) as node, ends.asking() as upstream:
        assert await ask(upstream, node.peer, blob(node)) == DATA
        part = await ask(upstream, node.peer, blob(node), range=ByteRange(5, 9))
        assert part == DATA[5:10]
        assert await ask(upstream, node.peer, blob(node), head=True) == b""
        with pytest.raises(PeerRefused):
            await ask(upstream, node.peer, f"/v2/app/blobs/sha256:{'0' * 64}?ns=r.io")
        beyond = ByteRange(len(DATA), None)
        request = PeerRequest(target=blob(node), range=beyond)
        async with upstream.open(node.peer, request) as response:
            assert response.answer.start is None
        assert b"reasons" in await ask(upstream, node.peer, "/livez")
    assert ends.requests == ends.answers == Counter({ProofResult.RIGHT: 6})


async def test_a_proven_peer_sends_no_password(start: NodeFactory) -> None:
    """The registry wants one of all others, and its members have proved it by libp2p."""
    ends = Ends()
    async with (
        start(proof_gate=ends.gate, credentials=PASSWORD) as node,
        ends.asking() as upstream,
    ):
        assert await ask(upstream, node.peer, blob(node)) == DATA
        client = await node.client()
        assert (await client.ask("GET", blob(node))).status == 401
        ends.members.clear()  # it has not proved the password, or has hung up
        with pytest.raises(PeerRefused, match="401"):
            await ask(upstream, node.peer, blob(node))
    fake = FakePeer(DATA)
    async with fake.serve("a") as peer, ends.asking() as upstream:
        with pytest.raises(PeerUnproven):
            await ask(upstream, replace(peer, knows_password=True), "/v2/app")
        ends.key = None
        await ask(upstream, replace(peer, knows_password=True), "/v2/app")
    (_, proven), (_, unproven) = fake.requests
    assert PROOF_HEADER.lower() in proven
    assert "authorization" not in proven
    assert PROOF_HEADER.lower() not in unproven
    assert unproven["authorization"] == [PASSWORD.header]


async def test_a_node_without_proofs_is_asked_and_answered(start: NodeFactory) -> None:
    """An older node or Spegel in Go, on either side."""
    ends = Ends()
    async with start() as old, ends.asking() as upstream:
        ends.key = None
        assert await ask(upstream, old.peer, blob(old)) == DATA
    async with start(proof_gate=ends.gate) as node, ends.asking(PeerProofs.OFF) as old_client:
        assert await ask(old_client, node.peer, blob(node)) == DATA
    assert ends.requests == Counter({ProofResult.MISSING: 1})
    assert not ends.answers


async def test_whoever_requires_proofs_neither_asks_nor_answers_others(start: NodeFactory) -> None:
    """Not even its password goes to them. The own runtime is answered, and the probes are."""
    ends = Ends(PeerProofs.REQUIRE)
    async with start(proof_gate=ends.gate) as node:
        async with ends.asking(PeerProofs.OFF) as old, ends.asking() as upstream:
            with pytest.raises(PeerRefused, match="401"):
                await ask(old, node.peer, blob(node))
            ends.members.clear()
            with pytest.raises(PeerRefused, match="401"):
                await ask(upstream, node.peer, blob(node))
        client = await node.client()
        assert (await client.ask("GET", blob(node))).status == 200
        assert (await client.ask("GET", "/livez", "X-Spegel-Mirrored: true")).status == 200
    fake = FakePeer(DATA)
    async with fake.serve("a") as peer, ends.asking() as upstream:
        ends.key = None
        with pytest.raises(PeerUnproven, match="told no key"):
            await ask(upstream, replace(peer, knows_password=True), "/v2/app")
    assert fake.requests == []


@pytest.mark.parametrize("headers", [{}, {PROOF_HEADER: "1;00"}, {PROOF_HEADER: "\xff"}])
async def test_an_answer_that_anybody_could_give_is_not_believed(headers: dict[str, str]) -> None:
    """A rogue at the peer's address has not the key: nothing of its answer counts."""
    ends, fake = Ends(), FakePeer(DATA, headers=headers)
    async with fake.serve("a") as peer, ends.asking() as upstream:
        with pytest.raises(PeerUnproven, match="not believed"):
            await ask(upstream, peer, "/v2/app")
    assert ends.answers == Counter({ProofResult.WRONG if headers else ProofResult.MISSING: 1})


async def test_a_proof_of_another_time_or_life_is_refused(start: NodeFactory) -> None:
    """The refusal is not proven, so it is no answer. With the next key all is well."""
    ends = Ends()
    ends.clock += 100
    ends.tell()
    assert ends.key is not None
    late, wrong = replace(ends.key, ahead=ends.key.ahead - 61), replace(ends.key, secret=bytes(32))
    async with start(proof_gate=ends.gate) as node, ends.asking() as upstream:
        for ends.key in (late, wrong):
            with pytest.raises(PeerUnproven, match="may have restarted"):
                await ask(upstream, node.peer, blob(node))
        ends.tell()
        assert await ask(upstream, node.peer, blob(node)) == DATA
    results = (ProofResult.LATE, ProofResult.WRONG, ProofResult.RIGHT)
    assert ends.requests == Counter(results)


async def test_keys_change_under_requests(start: NodeFactory) -> None:
    """Six hours in a moment: the asker is told every second key only, and no request fails."""
    ends = Ends()
    async with start(proof_gate=ends.gate) as node, ends.asking() as upstream:
        target = blob(node)
        for hour in range(6):
            if hour % 2 == 0:
                ends.tell()
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(ask(upstream, node.peer, target))
                ends.clock += 30
            ends.clock += 3600 - 30
    assert ends.answers == Counter({ProofResult.RIGHT: 48})


async def test_slots_go_by_the_proven_id(start: NodeFactory) -> None:
    """Strangers at a peer's address do not use up its slots, nor can they take all."""
    ends = Ends()
    limits = TransferLimits(per_peer=1, overall=4, metrics=NodeMetrics().server)
    async with start(proof_gate=ends.gate, limits=limits) as node, ends.asking() as upstream:
        with limits.admit("127.0.0.1"):
            assert await ask(upstream, node.peer, blob(node)) == DATA
        await node.counted("http_requests_inflight")
        with limits.admit("127.0.0.1", proven=ASKER), pytest.raises(PeerRefused) as error:
            await ask(upstream, node.peer, blob(node))
        assert error.value.status == 503
