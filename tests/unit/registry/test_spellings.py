"""One registry in several spellings: what one node holds is found whatever the others call it."""

from __future__ import annotations

import asyncio
import json

import pytest
from structlog.testing import capture_logs

from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.routing.advertiser import Advertiser
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from spegel_py.store.spelled import SpelledStore
from tests.support.routers import until
from tests.unit.registry.conftest import Node, NodeFactory

MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": {}, "layers": []}
).encode()
HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "Docker.io", "docker.io:443")
OTHER = ("reg.example", "REG.example", "reg.example.", "reg.example:443")


@pytest.mark.parametrize("held", [*HUB, *OTHER, "my_registry.local:5000"])
async def test_a_tag_is_shared_among_all_spellings(start: NodeFactory, held: str) -> None:
    """At the holder and at a peer, with the namespace as the client wrote it."""
    store = MemoryStore()
    store.add(MANIFEST, f"{held}/library/app:1")
    spellings = next((each for each in (HUB, OTHER) if held in each), (held,))
    advertisers: list[Advertiser] = []
    spelled = SpelledStore(store=store, spellings=lambda name: advertisers[0].spellings(name))
    async with start("a", store=spelled) as a, start("b") as b:
        router, watcher = a.network.join(a.peer), MemoryWatcher(store=store)
        advertisers.append(Advertiser(watcher=watcher, router=router, changed=lambda _: None))
        with capture_logs():
            running = asyncio.create_task(advertisers[0].run())
            try:
                await until(lambda: bool(advertisers[0].advertised))
                for node in (a, b):
                    client = await node.client()
                    for ns in spellings:
                        answer = await client.ask("GET", f"/v2/library/app/manifests/1?ns={ns}")
                        assert (answer.status, answer.body) == (200, MANIFEST), ns
                        assert answer.headers["oci-namespace"] == ns
            finally:
                running.cancel()
                await asyncio.wait([running])


async def test_another_spelling_passes_no_filter(start: NodeFactory) -> None:
    """What is kept private as docker.io's is so as registry-1.docker.io's."""
    store = MemoryStore()
    digest = store.add(MANIFEST, "docker.io/library/app:1")
    async with start(store=store, filters=Filters(registries=["quay.io"])) as node:
        client = await node.client()
        for ns in HUB:
            for reference in ("1", digest):
                target = f"/v2/library/app/manifests/{reference}?ns={ns}"
                assert (await client.ask("GET", target)).status == 404


async def test_a_registry_may_be_named_in_a_header(node: Node) -> None:
    """OCI-Namespace is as good as `ns`, and an empty `ns` is as good as none."""
    digest: Digest = node.store.add(MANIFEST, "r.io/app:1")
    client = await node.client()
    for target in ("/v2/app/manifests/1", "/v2/app/manifests/1?ns="):
        answer = await client.ask("GET", target, "OCI-Namespace: r.io")
        assert (answer.status, answer.body) == (200, MANIFEST)
    assert (await client.ask("GET", "/v2/app/manifests/1?ns=")).status == 404
    answer = await client.ask("GET", f"/v2/app/manifests/{digest}?ns=")
    assert answer.status == 200
