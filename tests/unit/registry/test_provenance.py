"""Filters go by where content came from: the name in a request is the asker's choice."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import pytest

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.registry.ingest_reader import IngestReader
from spegel_py.store.memory_store import MemoryIngests, MemoryStore
from tests.unit.registry.conftest import Node, NodeFactory

MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
LAYER = b"layer" * 1000
PEER = "X-Spegel-Mirrored: true"
FOLLOWING = f"{PEER}\r\nX-Spegel-In-Flight: true"
FILTERS = Filters(
    patterns=[re.compile(r"^r\.io/secret/"), re.compile(r":latest$")], registries=["r.io"]
)
HIDDEN = frozenset({"r.io/secret/app", "other.io/team/app"})
MIXED = HIDDEN | {"r.io/team/app"}


class FakeOrigins:
    """Says of all content that it came from `all`, and counts how often it is asked."""

    def __init__(self, *sources: str) -> None:
        self.all = frozenset(sources)
        self.asked: list[Digest] = []
        self.is_away = False

    async def sources(self, digest: Digest) -> frozenset[str]:
        self.asked.append(digest)
        if self.is_away:
            raise StoreUnavailable("containerd is away")
        return self.all


@pytest.fixture
def origins() -> FakeOrigins:
    return FakeOrigins(*HIDDEN)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.add(MANIFEST, "r.io/secret/app:1", "r.io/team/retagged:1")
    store.add(LAYER)
    return store


@pytest.fixture
async def node(start: NodeFactory, store: MemoryStore, origins: FakeOrigins) -> AsyncIterator[Node]:
    async with start(store=store, filters=FILTERS, origins=origins) as running:
        yield running


def targets(name: str, registry: str | None) -> list[str]:
    """Return the targets of manifest and layer by digest, under a name."""
    ns = f"?ns={registry}" if registry else ""
    return [
        f"/v2/{name}/manifests/{Digest.of(MANIFEST)}{ns}",
        f"/v2/{name}/blobs/{Digest.of(LAYER)}{ns}",
    ]


EVERY_NAME = [
    *targets("secret/app", "r.io"),
    *targets("team/app", "r.io"),
    *targets("x", "r.io"),
    *targets("x", None),
    "/v2/team/retagged/manifests/1?ns=r.io",
]


@pytest.mark.parametrize("target", EVERY_NAME)
async def test_filtered_content_is_not_given_under_any_name(node: Node, target: str) -> None:
    """Neither to clients nor to peers, neither body nor head."""
    client = await node.client()
    for lines in ([], [PEER]):
        answer = await client.ask("GET", target, *lines)
        assert answer.status == 404
        assert answer.error["detail"] == {"filtered": True}
        assert (await client.ask("HEAD", target, *lines)).status == 404


@pytest.mark.parametrize("target", EVERY_NAME[2:])
async def test_content_with_one_source_that_is_not_filtered_is_given(
    node: Node, origins: FakeOrigins, target: str
) -> None:
    """A layer that a public image shares with a filtered one is no secret."""
    origins.all = MIXED
    client = await node.client()
    for lines in ([], [PEER]):
        assert (await client.ask("GET", target, *lines)).status == 200


async def test_the_name_in_a_request_is_filtered_besides(node: Node, origins: FakeOrigins) -> None:
    """As ever, and before anybody is asked where something came from."""
    origins.all = MIXED
    client = await node.client()
    for target in (*targets("secret/app", "r.io"), "/v2/team/retagged/manifests/latest?ns=r.io"):
        assert (await client.ask("GET", target)).status == 404
    assert origins.asked == []


async def test_a_peer_that_may_share_filtered_content_is_not_asked(
    start: NodeFactory, node: Node
) -> None:
    """This node would hand out what its settings keep here; content it does not hold is the peer's
    business.
    """
    other = b"held by the peer only"
    async with start("peer") as peer:
        for data in (LAYER, other):
            await node.network.join(peer.peer).advertise([str(peer.store.add(data))])
        client = await node.client()
        assert (await client.ask("GET", targets("x", "r.io")[1])).status == 404
        assert (await client.ask("GET", f"/v2/x/blobs/{Digest.of(other)}?ns=r.io")).status == 200


@pytest.mark.parametrize("is_away", [False, True])
async def test_content_of_unknown_origin_counts_as_not_here(
    start: NodeFactory, node: Node, origins: FakeOrigins, is_away: bool
) -> None:
    """It is not given, and a client is given that of a peer, who knows more."""
    origins.all, origins.is_away = frozenset(), is_away
    client = await node.client()
    assert (await client.ask("GET", targets("x", "r.io")[1])).status == 404
    async with start("peer") as peer:
        await node.network.join(peer.peer).advertise([str(peer.store.add(LAYER))])
        assert (await client.ask("GET", targets("x", "r.io")[1])).status == 200
        assert (await client.ask("GET", targets("x", "r.io")[1], PEER)).status == 404


async def test_without_filters_nobody_is_asked_where_content_came_from(
    start: NodeFactory, store: MemoryStore, origins: FakeOrigins
) -> None:
    """A request costs nothing more then, and content of unknown origin is given."""
    async with start(store=store, filters=EVERYTHING, origins=origins) as node:
        client = await node.client()
        for target in EVERY_NAME:
            assert (await client.ask("GET", target)).status == 200
    assert origins.asked == []


@pytest.mark.parametrize(("sources", "status"), [(HIDDEN, 404), (frozenset(), 404), (MIXED, 200)])
async def test_what_grows_goes_by_its_origin_too(
    start: NodeFactory, origins: FakeOrigins, sources: frozenset[str], status: int
) -> None:
    """A filtered layer is not given while it is being pulled."""
    ingests, digest = MemoryIngests(), Digest.of(LAYER)
    ingests.begin(digest, total=len(LAYER))
    ingests.write(digest, LAYER)
    origins.all = sources
    ingest_reader = IngestReader(ingests=ingests, size_of={digest: len(LAYER)}.get)
    async with start(filters=FILTERS, origins=origins, ingest_reader=ingest_reader) as node:
        client = await node.client()
        assert (await client.ask("GET", targets("x", "r.io")[1], FOLLOWING)).status == status
