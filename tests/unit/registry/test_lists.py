"""Lists of tags and of referrers, over real sockets: own, through a peer, and not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from spegel_py.mirror.peer_lists import PeerLists
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.mirror.scores import Scores
from spegel_py.oci.build import Image
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.manifest import OCI_INDEX
from spegel_py.registry.askers import Door, Doorkeeper
from spegel_py.registry.list_handler import ListHandler, ListPolicy
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from spegel_py.store.referrers import Referrers
from spegel_py.tools.runtime_token import TokenFile, write_tokens
from spegel_py.transfer.client import HTTPUpstream
from tests.support.images import image, signature
from tests.support.routers import until
from tests.unit.registry.conftest import PATIENT, Node, NodeFactory
from tests.unit.registry.raw import Answer

APP, TAGS = image("lists"), "/v2/team/app/tags/list?ns=r.io"
SIGNED = signature(APP)
REFERRERS = f"/v2/team/app/referrers/{APP.root.digest}?ns=r.io"


class Cluster:
    """Nodes of one network, each with an advertiser, as a node of the program has."""

    def __init__(self, start: NodeFactory, network: MemoryNetwork, stack: AsyncExitStack) -> None:
        self._start, self._network, self._stack = start, network, stack

    async def node(
        self,
        name: str,
        contents: dict[str, Image],
        *,
        policy: ListPolicy = ListPolicy.REGISTRY_AWAY,
        is_away: bool = True,
        filters: Filters = EVERYTHING,
        door: Door = Door.ALL,
        tokens: TokenFile | None = None,
        needs_proof: bool = False,
    ) -> Node:
        """Start a node with these images by their full tag names."""
        store = MemoryStore()
        for tag, one in contents.items():
            for blob in one.blobs:
                store.add(blob.data)
            store.tag(tag, one.root.digest)
        router = self._network.join(Peer(f"{name}'s lists", "127.0.0.1", 1))
        upstream = await self._stack.enter_async_context(HTTPUpstream(deadlines=PATIENT))
        lists = ListHandler(
            policy=policy,
            tags=lambda: [key for key in store.keys if "/" in key],
            referrers=Referrers(store=store, held=lambda: store.keys),
            peers=PeerLists(router=router, upstream=upstream, deadlines=PATIENT, scores=Scores()),
            reach=RegistryReach(probe=lambda registry: not is_away),
            filters=filters,
            doorkeeper=Doorkeeper(door=door, node="", tokens=tokens, needs_proof=needs_proof),
        )
        node = await self._stack.enter_async_context(
            self._start(name, store=store, lists=lists, filters=filters)
        )
        own = self._network.join(node.peer)
        advertiser = Advertiser(
            watcher=MemoryWatcher(store=store), router=own, changed=lambda keys: None
        )
        running = asyncio.create_task(advertiser.run())

        async def end() -> None:
            running.cancel()
            await asyncio.wait([running])

        self._stack.push_async_callback(end)
        await until(lambda: not contents or advertiser.to_advertise == 0 < len(advertiser.tags))
        return node


@asynccontextmanager
async def _made(start: NodeFactory, network: MemoryNetwork) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(start, network, stack)


@pytest.fixture
async def cluster(start: NodeFactory, network: MemoryNetwork) -> AsyncIterator[Cluster]:
    with capture_logs():
        async with _made(start, network) as made:
            yield made


async def ask(node: Node, target: str, *lines: str, method: str = "GET") -> Answer:
    return await (await node.client()).ask(method, target, *lines)


def digests(answer: Answer) -> list[Any]:
    assert answer.headers["content-type"] == OCI_INDEX
    return [each["digest"] for each in answer.json["manifests"]]


NAMES = {"r.io/team/app:2": APP, "R.io:443/team/app:1": APP, "r.io/team/other:9": APP}


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "through a peer"])
@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/v2/team/app/tags/list?ns=r.io", "X: x"),
        ("/v2/team/app/tags/list", "OCI-Namespace: r.io"),
        ("/v2/r.io/team/app/tags/list", "X: x"),
    ],
)
async def test_tags_are_listed(cluster: Cluster, target: str, line: str, is_own: bool) -> None:
    """In whichever way the registry is named, and marked as partial."""
    holder = await cluster.node("holder", NAMES)
    asked = holder if is_own else await cluster.node("other", {})
    answer = await ask(asked, target, line)
    assert answer.json == {"name": "team/app", "tags": ["1", "2"]}
    assert answer.headers["x-spegel-partial"] == "true"
    head = await ask(asked, target, line, method="HEAD")
    assert (head.status, head.body) == (200, b"")


async def test_the_lists_of_all_nodes_are_one(cluster: Cluster) -> None:
    await cluster.node("one", {"r.io/team/app:1": APP})
    await cluster.node("two", {"r.io/team/app:sha256-abc.sig": SIGNED})
    asked = await cluster.node("three", {"r.io/team/app:3": image("third")})
    assert (await ask(asked, TAGS)).json["tags"] == ["1", "3", "sha256-abc.sig"]
    page = await ask(asked, f"{TAGS}&n=2")
    assert page.json["tags"] == ["1", "3"]
    rest = page.headers["link"].removeprefix("<").partition(">")[0]
    assert (await ask(asked, rest)).json["tags"] == ["sha256-abc.sig"]
    assert "link" not in (await ask(asked, rest)).headers


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "through a peer"])
async def test_referrers_are_listed(cluster: Cluster, is_own: bool) -> None:
    sbom = signature(APP, kind="text/sbom", seed="sbom")
    names = {"r.io/team/app:1": APP, "r.io/team/app:sig": SIGNED, "r.io/team/app:sbom": sbom}
    holder = await cluster.node("holder", names)
    asked = holder if is_own else await cluster.node("other", {})
    answer = await ask(asked, REFERRERS)
    assert digests(answer) == sorted([str(SIGNED.root.digest), str(sbom.root.digest)])
    assert answer.headers["x-spegel-partial"] == "true"
    assert "oci-filters-applied" not in answer.headers
    some = await ask(asked, f"{REFERRERS}&artifactType=text/sbom")
    assert digests(some) == [str(sbom.root.digest)]
    assert some.headers["oci-filters-applied"] == "artifactType"
    found = await ask(asked, f"/v2/team/app/manifests/{digests(some)[0]}?ns=r.io")
    assert found.body == sbom.root.data


async def test_a_registry_that_answers_has_the_whole_list(cluster: Cluster) -> None:
    """The client is sent there: a partial list could hide a signature."""
    names = {"r.io/team/app:1": APP, "r.io/team/app:sig": SIGNED}
    node = await cluster.node("node", names, is_away=False)
    assert (await ask(node, TAGS)).error["code"] == "NAME_UNKNOWN"
    assert (await ask(node, REFERRERS)).error["code"] == "MANIFEST_UNKNOWN"
    mirrored = await ask(node, TAGS, "X-Spegel-Mirrored: true")
    assert mirrored.json["tags"] == ["1", "sig"]


@pytest.mark.parametrize("is_away", [True, False])
async def test_lists_are_always_answered_if_that_is_set(cluster: Cluster, is_away: bool) -> None:
    """Then an empty list of referrers is one too, as the distribution spec wants it."""
    names = {"r.io/team/app:1": APP}
    node = await cluster.node("node", names, policy=ListPolicy.ALWAYS, is_away=is_away)
    assert (await ask(node, TAGS)).json["tags"] == ["1"]
    assert digests(await ask(node, REFERRERS)) == []
    assert digests(await ask(node, REFERRERS.partition("?")[0])) == []


async def test_no_empty_list_is_answered(cluster: Cluster) -> None:
    """Nobody knows that there are no tags, or no signatures."""
    names = {"r.io/team/app:1": APP, "r.io/team/app:sig": SIGNED}
    node = await cluster.node("node", names)
    for target in (
        "/v2/team/none/tags/list?ns=r.io",
        f"/v2/team/app/referrers/{SIGNED.root.digest}?ns=r.io",
        f"{REFERRERS}&artifactType=none",
    ):
        assert (await ask(node, target)).status == 404


@pytest.mark.parametrize("line", ["X: x", "X-Spegel-Mirrored: true"])
async def test_lists_can_be_switched_off(cluster: Cluster, line: str) -> None:
    node = await cluster.node("node", NAMES, policy=ListPolicy.OFF)
    assert (await ask(node, TAGS, line)).status == 404


async def test_filtered_repositories_and_tags_are_not_listed(cluster: Cluster) -> None:
    import re

    filters = Filters(patterns=[re.compile(r"/secret"), re.compile(":2$")])
    names = {"r.io/team/app:1": APP, "r.io/team/app:2": APP, "r.io/team/secret:1": APP}
    node = await cluster.node("node", names, filters=filters)
    assert (await ask(node, TAGS)).json["tags"] == ["1"]
    assert (await ask(node, "/v2/team/secret/tags/list?ns=r.io")).status == 404


async def test_strangers_get_no_list_where_proofs_are_required(cluster: Cluster) -> None:
    """A client of this host is this node's own runtime, and a peer has to prove who it is."""
    node = await cluster.node("node", NAMES, needs_proof=True)
    assert (await ask(node, TAGS)).status == 200
    assert (await ask(node, TAGS, "X-Spegel-Mirrored: true")).status == 401


async def test_lists_have_the_door_of_pulls(cluster: Cluster, tmp_path: Path) -> None:
    """With a token file strangers get no list, and at the port of peers nobody else is asked."""
    write_tokens(tmp_path / "token", ("a" * 64,))
    await cluster.node("holder", NAMES)
    node = await cluster.node("node", {}, tokens=TokenFile(tmp_path / "token"))
    assert (await ask(node, TAGS)).status == 403
    assert (await ask(node, TAGS, f"X-Spegel-Runtime: {'a' * 64}")).status == 200
    for_peers = await cluster.node("peers", {}, door=Door.PEERS)
    assert (await ask(for_peers, TAGS)).status == 404


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", TAGS, 405),
        ("GET", "/v2/team/app/tags/list", 404),
        ("GET", f"{TAGS}&n=x", 400),
        ("GET", "/v2/team/app/referrers/latest?ns=r.io", 400),
    ],
)
async def test_other_requests_are_refused(
    cluster: Cluster, method: str, target: str, status: int
) -> None:
    node = await cluster.node("node", NAMES)
    assert (await ask(node, target, method=method)).status == status


async def test_a_peer_that_is_gone_or_lists_nonsense_takes_nothing_away(
    cluster: Cluster,
) -> None:
    holder = await cluster.node("holder", {"r.io/team/app:1": APP})
    gone = holder.network.join(Peer("gone", "127.0.0.1", 1))
    await gone.advertise(["tags:r.io/team/app", str(APP.root.digest)])
    asked = await cluster.node("other", {})
    assert (await ask(asked, TAGS)).json["tags"] == ["1"]
