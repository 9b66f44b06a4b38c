"""Which tags the advertiser knows, told or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import ContentNotFound
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore, MemoryWatcher
from spegel_py.store.spelled import SpelledStore
from tests.support.routers import until


@pytest.mark.parametrize(
    "seen", [None, lambda _name, pulled: pulled], ids=["digests only", "tags too"]
)
async def test_tags_are_known_also_where_they_are_not_told(
    seen: Callable[[str, float], float] | None,
) -> None:
    """With their pull times; they come and go with the content."""
    store, router = MemoryStore(), MemoryNetwork().join(Peer("me", "10.0.0.1", 5000))
    digest = store.add(b"manifest")
    store.tag("r.io/app:1", digest, pulled=5.0)
    advertiser = Advertiser(
        watcher=MemoryWatcher(store=store), router=router, changed=lambda keys: None, seen=seen
    )
    with capture_logs():
        running = asyncio.create_task(advertiser.run())
        try:
            await until(lambda: dict(advertiser.tags) == {"r.io/app:1": 5.0})
            store.tag("r.io/app:1", digest, pulled=7.0)
            store.tag("r.io/app:2", digest, pulled=6.0)
            await until(lambda: dict(advertiser.tags) == {"r.io/app:1": 7.0, "r.io/app:2": 6.0})
            store.remove("r.io/app:1")
            await until(lambda: dict(advertiser.tags) == {"r.io/app:2": 6.0})
            await until(
                lambda: (
                    set(advertiser.advertised) == {str(digest), *(["r.io/app:2"] if seen else [])}
                )
            )
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_a_tag_is_told_under_its_canonical_name_too() -> None:
    """Both names are told, one image is counted, and the image is found under either."""
    store, network = MemoryStore(), MemoryNetwork()
    router, changes = network.join(Peer("me", "10.0.0.1", 5000)), list[frozenset[str]]()
    digest = store.add(b"manifest")
    store.tag("REG.example:443/app:1", digest, pulled=5.0)
    watcher = MemoryWatcher(store=store)
    advertiser = Advertiser(watcher=watcher, router=router, changed=changes.append)
    spelled = SpelledStore(store=store, spellings=advertiser.spellings)
    own, canonical = "REG.example:443/app:1", "reg.example/app:1"
    with capture_logs():
        running = asyncio.create_task(advertiser.run())
        try:
            await until(lambda: set(advertiser.advertised) == {str(digest), own, canonical})
            assert changes == [frozenset({str(digest), own})]
            assert advertiser.to_advertise == 0
            assert (await spelled.resolve(canonical)).pulled == 5.0
            with pytest.raises(ContentNotFound):
                await spelled.resolve("reg.example/app:2")
            store.tag("reg.example./app:1", digest, pulled=7.0)
            await until(lambda: "reg.example./app:1" in advertiser.advertised)
            assert (await spelled.resolve(canonical)).pulled == 7.0
            assert network.members[Peer("me", "10.0.0.1", 5000)][canonical] == 7.0
            store.remove("reg.example./app:1")
            await until(lambda: set(advertiser.advertised) == {str(digest), own, canonical})
            store.remove(own)
            await until(lambda: set(advertiser.advertised) == {str(digest)})
            assert not advertiser.spellings(canonical)
        finally:
            running.cancel()
            await asyncio.wait([running])
