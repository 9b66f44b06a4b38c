"""Every way in which a client's pull can end leaves one record of the right reason, and metrics
that agree.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.holder_lookup import HolderLookup
from spegel_py.admin.images import LocalImages
from spegel_py.admin.routes import pull_routes
from spegel_py.health.peer_health import HealthState
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.registry.server import serve
from spegel_py.routing.base import Peer
from spegel_py.store.memory_store import MemoryStore
from spegel_py.transfer.base import Deadlines
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient
from tests.unit.registry.test_relayed import LARGE, MANIFEST, SMALL, TAG, blob

DIGEST = Digest.of(SMALL)


async def reason(node: Node) -> tuple[str | None, dict[str, Any]]:
    """Return the reason and the record of the one pull that a node's client made, once it is
    over.
    """
    async with asyncio.timeout(5):
        while not node.pull_log.find(None, limit=9):
            await asyncio.sleep(0.01)
    [record] = node.pull_log.find(None, limit=9)
    misses = await node.counted("spegel_mirror_misses_total")
    assert misses == ({} if record["reason"] is None else {(record["reason"],): 1})
    return record["reason"], record


async def test_a_hit_from_here(node: Node) -> None:
    """Its bytes are this node's own."""
    node.store.add(SMALL)
    await (await node.client()).ask("GET", blob(DIGEST))
    cause, record = await reason(node)
    assert (cause, record["source"], record["local"], record["peers_found"]) == (
        None,
        "local",
        "held",
        None,
    )
    assert record["bytes"] == {"local": len(SMALL), "peer": 0}
    assert (record["status"], record["reference"]) == (200, f"r.io/app@{DIGEST}")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_hit_from_a_peer(start: NodeFactory, method: str) -> None:
    """It says who was found, asked, and gave the bytes; the peer keeps no record of its own."""
    async with start("a") as a, start("b") as b:
        a.store.add(SMALL)
        await a.network.join(a.peer).advertise([str(DIGEST)])
        await (await b.client()).ask(method, blob(DIGEST))
        cause, record = await reason(b)
        assert (cause, record["source"], record["local"], record["peers_found"]) == (
            None,
            "peer",
            "absent",
            1,
        )
        assert [(one["peer"], one["outcome"]) for one in record["attempts"]] == [("a", "ok")]
        assert record["bytes"]["peer"] == (len(SMALL) if method == "GET" else 0)
        assert record["text"] == f"from {a.peer.authority}"
        assert a.pull_log.find(None, limit=9) == []


async def test_a_body_that_went_on_elsewhere_is_a_hit_from_both_peers(start: NodeFactory) -> None:
    """The attempt that broke is there with its outcome and its bytes, and so is the one that went
    on.
    """
    digest, cut = Digest.of(LARGE), 6_000_000
    async with (
        start() as node,
        FakePeer(LARGE, cut_at=cut).serve("c") as c,
        FakePeer(LARGE, cut_at=cut).serve("d") as d,
    ):
        for peer in (c, d):
            await node.network.join(peer).advertise([str(digest)])
        assert (await (await node.client()).ask("GET", blob(digest))).body == LARGE
        cause, record = await reason(node)
        assert cause is None
        first, second = record["attempts"]
        assert (first["outcome"], second["outcome"]) == ("unreachable", "ok")
        assert first["bytes"] == second["offset"] > 0
        assert first["bytes"] + second["bytes"] == record["bytes"]["peer"] == len(LARGE)
        assert {f"from {c.authority}, {d.authority}", f"from {d.authority}, {c.authority}"} >= {
            record["text"]
        }


async def test_nobody_has_it(node: Node) -> None:
    """Neither this node nor a peer: the registry is asked."""
    await (await node.client()).ask("GET", blob(DIGEST))
    cause, record = await reason(node)
    assert (cause, record["local"], record["peers_found"], record["attempts"]) == (
        "not_found",
        "absent",
        0,
        [],
    )
    assert (record["status"], record["bytes"]) == (404, {"local": 0, "peer": 0})


async def test_a_pull_is_one_line_of_the_log(start: NodeFactory) -> None:
    """What repeats it in parts is for debugging: an image is many pulls."""
    async with start("a") as a, start("b") as b:
        digest = a.store.add(SMALL)
        await a.network.join(a.peer).advertise([str(digest)])
        client = await b.client()
        with capture_logs() as logs:
            for asked in (digest, Digest.of(b"nobody has it")):
                await client.ask("GET", f"/v2/app/blobs/{asked}?ns=r.io")
            await b.counted("spegel_mirror_requests_total")
    told = [one for one in logs if one["log_level"] != "debug"]
    assert [one["event"] for one in told] == ["pull decided"] * 2
    assert [one["verdict"] for one in told] == ["hit", "miss"]
    assert {"relay started", "relay finished", "relay missed"} <= {one["event"] for one in logs}


async def test_all_peers_failed(start: NodeFactory) -> None:
    """Each attempt has its outcome."""
    async with (
        start() as node,
        FakePeer(status=404).serve("c") as c,
        FakePeer(status=500).serve("d") as d,
    ):
        for peer in (c, d):
            await node.network.join(peer).advertise([str(DIGEST)])
        await (await node.client()).ask("GET", blob(DIGEST))
        cause, record = await reason(node)
        assert (cause, record["peers_found"]) == ("failed", 2)
        assert {one["peer"]: one["outcome"] for one in record["attempts"]} == {
            "c": "not_found",
            "d": "refused",
        }


async def test_a_body_cut_short(start: NodeFactory) -> None:
    """The record says after which byte, and whose fault it was."""
    digest = Digest.of(LARGE)
    async with start() as node, FakePeer(LARGE, cut_at=5_000_000).serve("c") as peer:
        await node.network.join(peer).advertise([str(digest)])
        answer = await (await node.client()).ask("GET", blob(digest))
        cause, record = await reason(node)
    assert (cause, record["bytes"]["peer"], record["length"]) == (
        "cut",
        len(answer.body),
        len(LARGE),
    )
    assert record["text"].startswith(
        f"cut short after {len(answer.body)} of {len(LARGE)} bytes, no peer is left: "
    )


async def test_a_client_that_leaves_in_the_middle(start: NodeFactory) -> None:
    """It is nobody else's fault."""
    digest = Digest.of(LARGE)
    async with (
        start() as node,
        FakePeer(LARGE, cut_at=5_000_000, ending="stall").serve("c") as peer,
    ):
        await node.network.join(peer).advertise([str(digest)])
        client = await leaving(node, digest)
        await client.reader.readexactly(1000)
        client.close()
        cause, record = await reason(node)
        assert (cause, record["source"], record["status"]) == ("client_gone", "peer", 200)
        assert [one["outcome"] for one in record["attempts"]] == ["abandoned"]


async def test_a_client_that_leaves_before_an_answer(start: NodeFactory) -> None:
    """While a peer is still being waited for."""
    async with start() as node, FakePeer(silent=True).serve("c") as peer:
        await node.network.join(peer).advertise([str(DIGEST)])
        client = await leaving(node, DIGEST)
        async with asyncio.timeout(5):
            while not node.samples("http_requests_inflight"):
                await asyncio.sleep(0.01)
        client.close()
        cause, record = await reason(node)
        assert (cause, record["status"], record["source"]) == ("client_gone", None, None)


async def test_a_client_that_is_gone_when_its_answer_begins(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection ended after the content was found: no head was sent, so the record names no
    source.
    """

    async def break_off(response: web.StreamResponse, request: web.BaseRequest) -> None:
        raise ConnectionResetError("Cannot write to closing transport")

    node.store.add(SMALL)
    monkeypatch.setattr(web.StreamResponse, "prepare", break_off)
    client = await leaving(node, DIGEST)
    assert await client.reader.read() == b""
    [record] = node.pull_log.find(None, limit=9)
    assert (record["reason"], record["status"], record["source"]) == ("client_gone", None, None)
    assert record["text"] == "the client left before there was an answer"


async def leaving(node: Node, digest: Digest) -> RawClient:
    client = await node.client()
    client.writer.write(f"GET {blob(digest)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


async def test_a_filtered_image(start: NodeFactory) -> None:
    """The store is not even asked."""
    async with start(filters=Filters(patterns=[re.compile("^r.io/app")])) as node:
        node.store.add(SMALL)
        await (await node.client()).ask("GET", blob(DIGEST))
        cause, record = await reason(node)
        assert (cause, record["local"]) == ("filtered", "unasked")
        assert record["text"] == "r.io/app is not mirrored, by this node's settings"


async def test_tags_that_are_not_mirrored(start: NodeFactory) -> None:
    """`--tag-ttl 0` keeps them out."""
    async with start(freshness=Freshness(ttl=0)) as node:
        await (await node.client()).ask("GET", TAG)
        assert (await reason(node))[0] == "filtered"


async def test_a_range_outside_the_content(node: Node) -> None:
    """It is refused with 416."""
    node.store.add(SMALL)
    await (await node.client()).ask("GET", blob(DIGEST), f"Range: bytes={len(SMALL)}-")
    cause, record = await reason(node)
    assert (cause, record["status"], record["range"]) == ("invalid", 416, f"bytes={len(SMALL)}-")


async def test_a_blob_asked_for_as_a_manifest(node: Node) -> None:
    """It is here, but is no manifest; no peer is asked."""
    node.store.add(SMALL)
    await (await node.client()).ask("GET", blob(DIGEST).replace("blobs", "manifests"))
    cause, record = await reason(node)
    assert (cause, record["local"], record["text"]) == (
        "not_found",
        "held",
        f"{DIGEST} is not one of the manifests",
    )


async def test_a_tag_that_is_too_old(start: NodeFactory) -> None:
    """It is here, but may have moved at its registry, and no peer knows better."""
    async with start(freshness=Freshness(ttl=60)) as node:
        node.store.tag("r.io/app:v1", node.store.add(MANIFEST), pulled=time.time() - 7200)
        await (await node.client()).ask("GET", TAG)
        cause, record = await reason(node)
        assert (cause, record["local"]) == ("too_old", "too_old")
        assert "2.0 h ago" in record["text"]


@pytest.mark.parametrize("answers", [True, False])
async def test_a_tag_of_any_age_is_answered_while_its_registry_is_away(
    start: NodeFactory, answers: bool
) -> None:
    """Here and at a peer: nobody has a newer one to give."""
    reach = RegistryReach(probe=lambda registry: answers)
    freshness = Freshness(ttl=60)
    async with (
        start("holder", freshness=freshness) as holder,
        start("other", freshness=freshness, reach=reach) as other,
        start("own", freshness=freshness, reach=reach) as own,
    ):
        old, name = time.time() - 7200, "r.io/app:v1"
        for node in (holder, own):
            node.store.tag(name, node.store.add(MANIFEST), pulled=old)
        await holder.network.join(holder.peer).advertise([name], pulled={name: old})
        for node in (other, own):
            answer = await (await node.client()).ask("GET", TAG)
            assert answer.status == (404 if answers else 200)
            if not answers:
                assert answer.body == MANIFEST
                assert int(answer.headers["age"]) >= 7200


async def test_a_tag_whose_age_only_the_answer_tells_is_too_old_as_well(
    start: NodeFactory,
) -> None:
    """As above the mesh limit, where a peer is asked before its tag proves too old."""
    asked = []

    def probe(registry: str) -> bool:
        asked.append(registry)
        return False

    reach = RegistryReach(probe=probe)
    async with (
        start("holder") as holder,
        start("other", freshness=Freshness(ttl=60), reach=reach) as other,
    ):
        name = "r.io/app:v1"
        holder.store.tag(name, holder.store.add(MANIFEST), pulled=time.time() - 7200)
        await holder.network.join(holder.peer).advertise([name])
        assert (await (await other.client()).ask("GET", TAG)).status == 200
    assert asked == ["r.io"]


async def test_no_registry_is_asked_about_while_the_peers_of_a_tag_fail(
    start: NodeFactory,
) -> None:
    """The tag is not too old: its pull goes on at the registry, whether that answers or not."""
    asked = []

    def probe(registry: str) -> bool:
        asked.append(registry)
        return False

    reach = RegistryReach(probe=probe)
    async with start("other", freshness=Freshness(ttl=60), reach=reach) as other:
        dead = Peer("dead", "127.0.0.1", 1)
        await other.network.join(dead).advertise(["r.io/app:v1"])
        assert (await (await other.client()).ask("GET", TAG)).status == 404
    assert asked == []


async def test_a_store_that_is_away(node: Node) -> None:
    """Where no peer helps out, that is the reason."""
    node.store.leave()
    await (await node.client()).ask("GET", blob(DIGEST))
    cause, record = await reason(node)
    assert (cause, record["local"]) == ("store_away", "away")


async def test_a_lookup_that_takes_too_long(start: NodeFactory) -> None:
    """It was still going on when the client was sent upstream."""
    async with start(router=SlowRouter(), deadlines=Deadlines(resolve=0.05)) as node:
        await (await node.client()).ask("GET", blob(DIGEST))
        assert (await reason(node))[0] == "lookup_timeout"


async def test_a_fault_of_this_node(start: NodeFactory) -> None:
    """A bug is no miss like others: it is named."""

    class Broken(MemoryStore):
        async def stat(self, digest: Digest) -> Any:
            raise ZeroDivisionError(str(digest))

    async with start(store=Broken()) as node:
        assert (await (await node.client()).ask("GET", blob(DIGEST))).status == 500
        cause, record = await reason(node)
        assert (cause, record["text"]) == (
            "error",
            f"a fault of this node: ZeroDivisionError: {DIGEST}",
        )
        assert node.metrics.pulls.outcomes["error"] == 1


class SlowRouter:
    """A router that finds one peer, after too long."""

    async def lookup(self, key: str, *, limit: int, max_age: float = 0) -> AsyncIterator[Peer]:
        await asyncio.sleep(60)
        yield Peer("late", "127.0.0.1", 1)

    async def advertise(self, *_: object, **__: object) -> None: ...

    async def withdraw(self, *_: object) -> None: ...

    async def ready(self) -> bool:
        return True


# What the metrics port tells


@asynccontextmanager
async def debugging(node: Node, **options: Any) -> AsyncIterator[RawClient]:
    """Serve what people ask a node, and give a client of that."""

    async def state() -> dict[str, object]:
        return {}

    router = options.pop("router", None) or node.network.join(Peer("asking", "127.0.0.1", 1))
    holder_lookup = HolderLookup(
        store=node.store, router=router, health=lambda _: HealthState.HEALTHY, **options
    )
    images = LocalImages(
        store=node.store,
        holders=HolderCache(router=router),
        tags=dict,
        held=lambda: node.store.keys,
    )
    routes = pull_routes(pull_log=node.pull_log, holder_lookup=holder_lookup, images=images)
    async with serve(
        create_admin_app(render=NodeMetrics().render, state=state, routes=routes), "127.0.0.1:0"
    ) as port:
        client = await RawClient.connect(port)
        yield client
        client.close()


async def test_decisions_are_told_newest_first(node: Node) -> None:
    """All, so many, or those of one digest."""
    node.store.add(SMALL)
    client = await node.client()
    for digest in (DIGEST, Digest.of(b"other")):
        await client.ask("GET", blob(digest))
    async with debugging(node) as debug:
        both = (await debug.ask("GET", "/debug/decisions")).json
        assert [one["reason"] for one in both["decisions"]] == ["not_found", None]
        assert (both["kept"], both["bytes"]) == (2, node.pull_log.bytes)
        assert len((await debug.ask("GET", "/debug/decisions?limit=1")).json["decisions"]) == 1
        [one] = (await debug.ask("GET", f"/debug/decisions?key={DIGEST}")).json["decisions"]
        assert one["digest"] == str(DIGEST)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/debug/decisions?limit=0", "?limit= should be a whole number from 1 to 1000, not '0'"),
        ("/debug/decisions?limit=x", "?limit= should be a whole number from 1 to 1000, not 'x'"),
        ("/debug/resolve", "?key= must say what is looked for: a digest or a reference"),
        ("/debug/resolve?key=sha256:x", "a sha256 digest has 64 lower-case hex digits: 'sha256:x'"),
        (
            "/debug/resolve?key=app/x:1",
            "name the registry: registry.example/app/x:1",
        ),
    ],
)
async def test_bad_questions_are_400(node: Node, target: str, message: str) -> None:
    """With one line that says what should be asked."""
    async with debugging(node) as debug:
        answer = await debug.ask("GET", target)
        assert (answer.status, answer.error["message"]) == (400, message)


async def test_resolve_says_who_has_it(node: Node) -> None:
    """A tag's peers with their health and when they were found, and whether it is here."""
    digest = node.store.add(MANIFEST, "r.io/app:v1")
    peer = Peer("c", "10.0.0.3", 5000)
    await node.network.join(peer).advertise(["r.io/app:v1"])
    async with debugging(node) as debug:
        answer = (await debug.ask("GET", "/debug/resolve?key=r.io/app:v1")).json
        assert (answer["local"], answer["digest"], answer["ended"]) == ("held", str(digest), True)
        [found] = answer["peers"]
        assert (found["id"], found["address"], found["health"]) == ("c", "10.0.0.3:5000", "healthy")
        assert 0 <= found["ms"] <= answer["ms"]
        nobody = (await debug.ask("GET", f"/debug/resolve?key=r.io/app@{DIGEST}")).json
        assert (nobody["key"], nobody["local"], nobody["peers"]) == (str(DIGEST), "absent", [])
        node.store.leave()
        assert (await debug.ask("GET", f"/debug/resolve?key={digest}")).json["local"] == "away"


async def test_resolve_ends_when_the_lookup_does_not(node: Node) -> None:
    """And says that it had not ended."""
    async with debugging(node, router=SlowRouter(), within=0.05) as debug:
        answer = (await debug.ask("GET", f"/debug/resolve?key={DIGEST}")).json
        assert (answer["ended"], answer["peers"]) == (False, [])


class OriginOf:
    """The origin of all content."""

    def __init__(self, *sources: str) -> None:
        self._sources = frozenset(sources)

    async def sources(self, _: Digest) -> frozenset[str]:
        return self._sources


@pytest.mark.parametrize(
    ("key", "is_excluded"),
    [
        ("r.io/app:v1", True),
        (f"r.io/app@{DIGEST}", True),
        (f"r.io/other@{DIGEST}", False),
        ("r.io/other:v1", False),
        (str(DIGEST), True),
    ],
)
async def test_resolve_says_that_a_filter_excludes_the_content(
    node: Node, key: str, is_excluded: bool
) -> None:
    """By the name in a pull, and a digest alone by its origin, though the content is here."""
    node.store.add(SMALL)
    filters = Filters(patterns=[re.compile("r.io/app")])
    async with debugging(node, filters=filters, origins=OriginOf("r.io/app")) as debug:
        note = (await debug.ask("GET", f"/debug/resolve?key={key}")).json["note"]
        assert (note is not None and "--registry-filters exclude it" in note) is is_excluded
    async with debugging(node, filters=filters, origins=OriginOf("r.io/other")) as debug:
        assert (await debug.ask("GET", f"/debug/resolve?key={DIGEST}")).json["note"] is None


async def test_a_body_on_its_way_tells_how_far_it_is(start: NodeFactory) -> None:
    """While the client does not read: how much of it was sent, out of how much, and by which
    peer.
    """
    data = LARGE * 3
    async with start("a") as a, start("b") as b:
        a.store.add(data)
        await a.network.join(a.peer).advertise([str(Digest.of(data))])
        client = await b.client()
        client.writer.write(f"GET {blob(Digest.of(data))} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            while not (b.pull_log.under_way and b.pull_log.under_way[0].progress()):
                await asyncio.sleep(0.01)
        [context] = b.pull_log.under_way
        assert (context.source, context.peer, context.length) == ("peer", "a", len(data))
        assert 0 < context.progress() < len(data)
        assert [one.pull.mirrored for one in a.pull_log.under_way] == [True]
        assert (await client.read()).body == data
        await reason(b)
        assert b.pull_log.under_way == ()
