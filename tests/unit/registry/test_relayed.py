"""Two nodes in one process: the second has nothing, and answers with what the first has."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass

import aiohttp
import pytest

from spegel_py.mirror.freshness import Freshness
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.store.memory_store import MemoryStore
from spegel_py.transfer.base import Deadlines
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.conftest import Node, NodeFactory

LARGE = bytes(range(251)) * 40_000
SMALL = b"small" * 100
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
TAG = "/v2/app/manifests/v1?ns=r.io"


@dataclass
class Pair:
    """A node that has content and one that has none."""

    a: Node
    b: Node

    async def hold(self, data: bytes, *names: str) -> Digest:
        """Put content into A's store, and advertise it."""
        digest = self.a.store.add(data, *names)
        await self.a.network.join(self.a.peer).advertise([*self.a.store.keys])
        return Digest.parse(str(digest))


@pytest.fixture
async def pair(start: NodeFactory) -> AsyncIterator[Pair]:
    async with start("a") as a, start("b") as b:
        yield Pair(a, b)


def blob(digest: Digest) -> str:
    return f"/v2/app/blobs/{digest}?ns=r.io"


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
async def test_a_blob_is_relayed(pair: Pair, data: bytes) -> None:
    """B answers with A's bytes and says whose they are; nothing is kept at B."""
    digest = await pair.hold(data)
    answer = await (await pair.b.client()).ask("GET", blob(digest))
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["x-spegel-peer"] == "a"
    assert answer.headers["docker-content-digest"] == str(digest)
    assert pair.b.store.keys == frozenset()
    assert await pair.b.counted("spegel_mirror_requests_total") == {("r.io", "hit"): 1}
    assert await pair.b.counted("spegel_served_bytes_total") == {("peer",): len(data)}
    assert await pair.b.counted("spegel_peer_attempts_total") == {("ok",): 1}
    giver = pair.a.peer.authority
    assert await pair.b.counted("spegel_peer_requests_total") == {(giver, "ok"): 1}
    assert await pair.b.counted("spegel_peer_received_bytes_total") == {(giver,): len(data)}
    assert await pair.b.counted("spegel_peer_first_byte_seconds_count") == {(giver,): 1}
    assert await pair.b.counted("spegel_mirror_last_success_timestamp_seconds")
    assert await pair.b.counted("spegel_resolve_duration_seconds_count") == {("libp2p",): 1}


async def test_a_peers_request_is_counted_at_its_own_node(pair: Pair) -> None:
    """A counts the bytes it sent, but neither a hit nor a miss: it was not its client that
    pulled.
    """
    digest = await pair.hold(SMALL)
    await (await pair.b.client()).ask("GET", blob(digest))
    assert await pair.a.counted("spegel_served_bytes_total") == {("local",): len(SMALL)}
    assert await pair.a.counted("spegel_mirror_requests_total") == {}


async def test_an_image_is_pulled_as_containerd_does(pair: Pair) -> None:
    """HEAD of the tag, GET of the manifest by digest, GET of the blobs: all from A, with the same
    headers as from A.
    """
    layer = await pair.hold(LARGE)
    await pair.hold(MANIFEST, "r.io/app:v1")
    here, there = await pair.b.client(), await pair.a.client()
    for method, target in (
        ("HEAD", TAG),
        ("GET", TAG),
        ("GET", f"/v2/app/manifests/{Digest.of(MANIFEST)}?ns=r.io"),
        ("HEAD", blob(layer)),
        ("GET", blob(layer)),
    ):
        relayed, direct = await here.ask(method, target), await there.ask(method, target)
        assert relayed.headers.pop("x-spegel-peer") == "a"
        assert relayed.headers | {"date": ""} == direct.headers | {"date": ""}
        assert (relayed.status, relayed.body) == (direct.status, direct.body) == (200, direct.body)


@pytest.mark.parametrize("data", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("asked", ["100-", "100-299", "-200", "100-99999999"])
async def test_a_range_is_relayed(pair: Pair, data: bytes, asked: str) -> None:
    """B answers a range of any form with the 206 that A would give, verified as a whole where it is
    small.
    """
    digest = await pair.hold(data)
    relayed, direct = [
        await (await node.client()).ask("GET", blob(digest), f"Range: bytes={asked}")
        for node in (pair.b, pair.a)
    ]
    assert (relayed.status, relayed.body) == (direct.status, direct.body) == (206, direct.body)
    assert relayed.headers["content-range"] == direct.headers["content-range"]


async def test_a_range_outside_is_told_through_the_relay(pair: Pair) -> None:
    """A range beyond the end of what A has is B's 416, with the size."""
    digest = await pair.hold(LARGE)
    answer = await (await pair.b.client()).ask("GET", blob(digest), f"Range: bytes={len(LARGE)}-")
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{len(LARGE)}"


async def test_a_mirrored_request_goes_no_further(pair: Pair) -> None:
    """A request from a peer is answered from local content only: one hop at most."""
    digest = await pair.hold(SMALL)
    answer = await (await pair.b.client()).ask("GET", blob(digest), "X-Spegel-Mirrored: true")
    assert answer.status == 404
    assert await pair.b.counted("spegel_peer_attempts_total") == {}


async def test_a_store_that_is_away_is_helped_out_by_peers(pair: Pair) -> None:
    """When B's daemon is down B still answers from A."""
    digest = await pair.hold(SMALL)
    pair.b.store.leave()
    assert (await (await pair.b.client()).ask("GET", blob(digest))).body == SMALL


async def test_a_stale_record_is_a_404_with_its_attempt(pair: Pair) -> None:
    """A record of content that A no longer has costs one attempt, and the runtime goes upstream."""
    digest = await pair.hold(SMALL)
    pair.a.store.remove(digest)
    answer = await (await pair.b.client()).ask("GET", blob(digest))
    assert (answer.status, answer.error["detail"]) == (404, {"attempts": 1})
    assert await pair.b.counted("spegel_mirror_misses_total") == {("failed",): 1}
    assert await pair.b.counted("spegel_peer_attempts_total") == {("not_found",): 1}


async def test_credentials_are_passed_to_nobody_who_did_not_set_them(pair: Pair) -> None:
    """What a client sends as Authorization stays at this node."""
    fake = FakePeer(SMALL)
    async with fake.serve("c") as peer:
        await pair.b.network.join(peer).advertise([str(Digest.of(SMALL))])
        client = await pair.b.client()
        await client.ask("GET", blob(Digest.of(SMALL)), "Authorization: Basic abc", "Cookie: a=b")
    [(_, fields)] = fake.requests
    assert "authorization" not in fields
    assert "cookie" not in fields


async def test_a_relay_that_cannot_go_on_ends_with_a_fin(pair: Pair) -> None:
    """When no peer is left in mid-body the client gets a true beginning and a FIN."""
    digest = Digest.of(LARGE)
    async with FakePeer(LARGE, cut_at=5_000_000).serve("c") as peer:
        await pair.b.network.join(peer).advertise([str(digest)])
        client = await pair.b.client()
        answer = await client.ask("GET", blob(digest))
        assert await client.end() == b""
    assert answer.headers["content-length"] == str(len(LARGE))
    assert 0 < len(answer.body) <= 5_000_000
    assert LARGE.startswith(answer.body)
    assert await pair.b.counted("spegel_mirror_requests_total") == {("r.io", "miss"): 1}
    assert await pair.b.counted("spegel_mirror_misses_total") == {("cut",): 1}


async def test_a_cut_relay_is_no_reset_even_if_the_client_goes_on_sending(pair: Pair) -> None:
    """A client that sends while the connection is being ended, and reads only then, still sees
    bytes and a FIN.
    """
    digest, loop = Digest.of(LARGE), asyncio.get_running_loop()
    async with FakePeer(LARGE, cut_at=50_000).serve("c") as peer:
        await pair.b.network.join(peer).advertise([str(digest)])
        with closing(socket.create_connection(("127.0.0.1", pair.b.port))) as client:
            client.setblocking(False)
            await loop.sock_sendall(
                client, f"GET {blob(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            async with asyncio.timeout(5):
                while not pair.b.samples("spegel_mirror_misses_total"):
                    await asyncio.sleep(0.01)
            for _ in range(5):
                await asyncio.sleep(0.01)
                await loop.sock_sendall(client, b"x" * 1000)
            await asyncio.sleep(0.01)
            answer = b""
            while piece := await loop.sock_recv(
                client, 65536
            ):  # raises ConnectionResetError after an RST
                answer += piece
    assert LARGE.startswith(answer.partition(b"\r\n\r\n")[2])


async def test_a_runtime_resumes_a_cut_pull_and_is_sent_upstream(pair: Pair) -> None:
    """After a cut the runtime asks for the rest: A goes on if it can, else 404 sends that range
    upstream.
    """
    digest = Digest.of(LARGE)
    async with FakePeer(LARGE, cut_at=5_000_000).serve("c") as peer:
        await pair.b.network.join(peer).advertise([str(digest)])
        first = await (await pair.b.client()).ask("GET", blob(digest))
        rest = f"Range: bytes={len(first.body)}-"
        assert (await (await pair.b.client()).ask("GET", blob(digest), rest)).status == 404
        await pair.hold(LARGE)
        second = await (await pair.b.client()).ask("GET", blob(digest), rest)
    assert second.status == 206
    assert first.body + second.body == LARGE


async def test_a_client_that_leaves_stops_the_peer(pair: Pair) -> None:
    """When the client leaves in mid-body the peer is hung up on at once, and is not blamed."""
    digest, started = Digest.of(LARGE), asyncio.Event()
    fake = FakePeer(LARGE, cut_at=5_000_000, ending="stall", on_body=started.set)
    async with fake.serve("c") as peer:
        await pair.b.network.join(peer).advertise([str(digest)])
        client = await pair.b.client()
        client.writer.write(f"GET {blob(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await client.reader.readexactly(1000)
        client.close()
        await asyncio.wait_for(fake.hung_up.wait(), 0.25)
    assert await pair.b.counted("spegel_peer_attempts_total") == {("abandoned",): 1}
    assert await pair.b.counted("spegel_mirror_misses_total") == {("client_gone",): 1}


async def test_many_clients_at_once(start: NodeFactory) -> None:
    """Twenty pulls at the same time through one node all get their bytes."""
    patient = Deadlines(connect=10, first_byte=10, stall=10)  # everything shares one loop here
    async with start("a") as a, start("b", deadlines=patient) as b:
        digests = [await Pair(a, b).hold(LARGE + bytes([number])) for number in range(4)]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{b.port}") as session:

            async def pull(digest: Digest) -> Digest:
                async with session.get(blob(digest)) as response:
                    return Digest.of(await response.read())

            assert await asyncio.gather(*[pull(digest) for digest in digests * 5]) == digests * 5


async def test_a_node_without_a_mirror_is_a_plain_registry(start: NodeFactory) -> None:
    """The metrics of hits tell local answers too."""
    store = MemoryStore()
    digest = store.add(SMALL)
    async with start(store=store) as node:
        assert (await (await node.client()).ask("GET", blob(digest))).body == SMALL
        assert await node.counted("spegel_mirror_requests_total") == {("r.io", "hit"): 1}
        assert await node.counted("spegel_served_bytes_total") == {("local",): len(SMALL)}
        assert await node.counted("spegel_mirror_last_success_timestamp_seconds") == {}


# Tags that may have moved


async def ages(node: Node, headers: str = "") -> tuple[int, int | None]:
    """Return status and Age of the answer to a HEAD of the tag."""
    answer = await (await node.client()).ask("HEAD", TAG, *([headers] if headers else []))
    age = answer.headers.get("age")
    return answer.status, None if age is None else int(age)


async def test_an_old_tag_is_answered_to_peers_only_with_its_age(start: NodeFactory) -> None:
    """A client goes to the registry, which may know better; a peer decides for itself."""
    async with start(freshness=Freshness(ttl=60)) as node:
        digest = node.store.add(MANIFEST)
        node.store.tag("r.io/app:v1", digest, pulled=time.time() - 61)
        assert await ages(node) == (404, None)
        status, age = await ages(node, "X-Spegel-Mirrored: true")
        assert status == 200
        assert age in (61, 62)
        node.store.tag("r.io/app:v1", digest, pulled=time.time() - 10)
        assert (await ages(node))[0] == 200


async def test_a_peer_with_an_old_tag_is_not_believed(start: NodeFactory) -> None:
    """Neither when it announced when it pulled the tag, nor when only its answer says so; the
    digest is relayed.
    """
    async with start("a") as a, start("b", freshness=Freshness(ttl=60)) as b:
        digest, name = a.store.add(MANIFEST), "r.io/app:v1"
        old = time.time() - 3600
        a.store.tag(name, digest, pulled=old)
        router = a.network.join(a.peer)
        for pulled in ({name: old}, {}):
            await router.advertise([name, str(digest)], pulled=pulled)
            assert await ages(b) == (404, None)
        answer = await (await b.client()).ask("GET", TAG.replace("v1", str(digest)))
        assert (answer.status, answer.body) == (200, MANIFEST)
        a.store.tag(name, digest, pulled=time.time())
        assert (await ages(b))[0] == 200


async def test_a_tag_stays_as_old_as_it_was_at_the_peer(start: NodeFactory) -> None:
    """What a node pulls after a peer's answer is no younger for it; after a 404 it is, for the
    registry was asked.
    """
    freshness = Freshness(ttl=60)
    async with start("a") as a, start("b", freshness=freshness) as b:
        digest, name = a.store.add(MANIFEST), "r.io/app:v1"
        a.store.tag(name, digest, pulled=time.time() - 40)
        await a.network.join(a.peer).advertise([name])
        assert (await ages(b))[1] in (40, 41)
        b.store.add(MANIFEST)
        b.store.tag(name, digest, pulled=time.time())
        assert (await ages(b))[1] in (40, 41)
        assert freshness.last_seen(name, time.time()) == pytest.approx(time.time() - 40, abs=2)
        b.store.remove(name)
        a.network.leave(a.peer)
        assert await ages(b) == (404, None)
        b.store.tag(name, digest, pulled=time.time())
        assert (await ages(b))[1] in (0, 1)


async def test_with_a_ttl_of_0_digests_alone_are_answered(start: NodeFactory) -> None:
    """No tag, to nobody."""
    async with start(freshness=Freshness(ttl=0)) as node:
        digest = node.store.add(MANIFEST, "r.io/app:v1")
        assert await ages(node) == await ages(node, "X-Spegel-Mirrored: true") == (404, None)
        assert (
            await (await node.client()).ask("GET", TAG.replace("v1", str(digest)))
        ).status == 200
