"""Fetching images onto one node, from a real HTTP registry by way of a mirror that has nothing."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from spegel_py.errors import ManifestInvalid, PeerRefused, StoreFull
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.reference import Reference
from spegel_py.preheat import local_preheat
from spegel_py.preheat.local_preheat import ImageOrder
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.preheat_request import PreheatDepth
from spegel_py.preheat.registry_lookup import ResolvedImage, plain_registries, registry_url
from spegel_py.pull.mirror_client import MirrorClient
from spegel_py.pull.plan import Platform
from spegel_py.replicas.replica_rules import DiskUse
from spegel_py.store.base import Replica, ReplicaReason
from spegel_py.store.memory_replicas import MemoryReplicas
from tests.support.images import child, image
from tests.support.processes import until
from tests.unit.preheat.preheated import Preheated, preheated

AMD64 = Platform.of("linux", "amd64")


def order(node: Preheated, one: Image, **fields: object) -> ImageOrder:
    given: dict[str, object] = {
        "image": Reference.parse(node.name()),
        "digest": one.root.digest,
        "platform": AMD64,
        "seen": 12.0,
        "expires": time.time() + 3600,
    }
    return ImageOrder(**given | fields)  # type: ignore[arg-type]


async def test_an_image_comes_from_the_registry_and_is_kept_with_its_tag() -> None:
    """Nobody in the cluster has it. The second time no layer moves."""
    one = image()
    async with preheated(one) as node:
        progress = await node.take(order(node, one))
        assert progress.stage is PreheatStage.DONE
        [replica] = node.replicas.held().values()
        assert (progress.done, progress.total, progress.upstream) == (replica.image.size,) * 3
        assert replica.reason is ReplicaReason.PREHEAT
        assert replica.names == {node.name(): 12.0}
        again = await node.take(order(node, one))
        assert again.stage is PreheatStage.HERE
        assert node.registry.got(one.blobs[-1].digest) == [0]


async def test_peers_are_asked_first() -> None:
    """What the mirror gives is not requested from the registry."""
    one = image()
    async with preheated(one) as node:
        node.mirror.add(one)
        progress = await node.take(order(node, one))
        assert (progress.stage, progress.upstream) == (PreheatStage.DONE, 0)
        assert node.registry.requests == []


async def test_a_second_order_does_not_shorten_the_time() -> None:
    one = image()
    async with preheated(one) as node:
        await node.take(order(node, one, expires=time.time() + 7200))
        await node.take(order(node, one, expires=time.time() + 60))
        [replica] = node.replicas.held().values()
        assert replica.expires > time.time() + 7000


@pytest.mark.parametrize(
    ("settings", "fields", "stage", "why"),
    [
        ({}, {"digest": Digest.of(b"other")}, PreheatStage.FAILED, "not-found"),
        ({"room": 10}, {}, PreheatStage.REFUSED, "no-room"),
        ({}, {"platform": Platform.of("linux", "s390x")}, PreheatStage.REFUSED, "no-platform"),
        (
            {"filters": Filters(patterns=[re.compile("team/app")])},
            {},
            PreheatStage.REFUSED,
            "filtered",
        ),
    ],
    ids=["unknown", "no room", "no platform", "filtered"],
)
async def test_what_cannot_be_is_said_and_leaves_nothing(
    settings: dict[str, object],
    fields: dict[str, object],
    stage: PreheatStage,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fault is a word and a sentence, and no second try."""
    monkeypatch.setattr("spegel_py.pull.resume.PAUSE_FIRST", 0.001)
    one = image(platforms=("amd64", "arm64"))
    async with preheated(one, **settings) as node:
        progress = await node.take(order(node, one, **fields))
        assert (progress.stage, progress.why) == (stage, why)
        assert progress.error
        assert node.is_empty()


async def test_a_busy_registry_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 429 is no end: the image waits, with the reason, and comes."""
    monkeypatch.setattr("spegel_py.pull.resume.PAUSE_FIRST", 0.001)
    monkeypatch.setattr(local_preheat, "PAUSE_FIRST", 0.01)
    one = image()
    layer = str(one.blobs[-1].digest)
    async with preheated(one) as node:
        node.registry.status[layer] = 429
        progress = NodeProgress()
        task = asyncio.create_task(node.local.preheat(order(node, one), progress, owner="a"))

        async def is_waiting() -> bool:
            return progress.stage is PreheatStage.WAITING and progress.why == "registry-busy"

        await until(is_waiting)
        del node.registry.status[layer]
        await task
        assert progress.stage is PreheatStage.DONE


async def test_a_cancelled_image_leaves_nothing() -> None:
    one = image(size=200_000)
    async with preheated(one) as node:
        progress = NodeProgress()
        slow = order(node, one, rate=65_536)
        task = asyncio.create_task(node.local.preheat(slow, progress, owner="a"))

        async def has_begun() -> bool:
            node.local.refresh()
            return progress.done > 0

        await until(has_begun)
        task.cancel()
        await asyncio.wait([task])
        assert node.is_empty()


async def test_an_image_goes_when_its_last_owner_drops_it() -> None:
    """Two jobs want it; what nobody of them wants is no longer kept."""
    one = image()
    async with preheated(one) as node:
        for owner in ("a", "b"):
            await node.take(order(node, one), owner=owner)
        await node.local.drop(one.root.digest, owner="a")
        assert node.replicas.held()
        await node.local.drop(one.root.digest, owner="b")
        assert node.is_empty()


async def test_with_a_floor_a_dropped_image_is_an_ordinary_replica() -> None:
    """The floor's rules keep or release it, since it may be the only copy."""
    one = image()
    async with preheated(one, floor=1) as node:
        await node.take(order(node, one))
        await node.local.drop(one.root.digest, owner="a job")
        [replica] = node.replicas.held().values()
        assert replica.reason is ReplicaReason.FLOOR


async def test_an_image_goes_when_its_time_is_over() -> None:
    one = image()
    async with preheated(one) as node:
        await node.take(order(node, one, expires=time.time() + 30))
        await node.local.drop_expired()
        assert node.is_empty()


async def test_an_image_for_another_node_gets_less_room() -> None:
    """A peer cannot fill the disk. What this node's own user wants still comes."""
    one = image()
    async with preheated(one) as node, preheated(one, room=10) as small:
        node.local._peer_taker = small.local._peer_taker
        for_peer = await node.take(order(node, one, is_for_peer=True))
        assert (for_peer.stage, for_peer.why) == (PreheatStage.REFUSED, "no-room")
        assert node.is_empty()
        assert (await node.take(order(node, one))).stage is PreheatStage.DONE


async def test_images_give_way_to_a_full_disk() -> None:
    """The largest goes first, and no more than is needed."""
    small, large = image("small"), image("large", size=50_000)
    async with preheated(small, large) as node:
        for one in (small, large):
            await node.take(order(node, one))
        await node.local.give_way(DiskUse(total=1000, used=790))
        assert len(node.replicas.held()) == 2
        await node.local.give_way(DiskUse(total=1_000_000, used=801_000))
        assert set(node.replicas.held()) == {small.root.digest}


class PrivateRegistry:
    """A registry that wants a user, or a token for that user from a server of its own.

    It redirects blobs to another host, which wants a token too.
    """

    def __init__(self, one: Image, *, has_tokens: bool) -> None:
        self.one = one
        self.has_tokens = has_tokens
        self.redirect = ""
        self.seen: list[tuple[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        self.seen.append((request.path, given))
        user = "Basic " + base64.b64encode(b"me:s3cret").decode()
        if request.path == "/token":
            if given != user:
                return web.Response(status=401)
            return web.json_response({"token": "t0ken"})
        if given != ("Bearer t0ken" if self.has_tokens else user):
            realm = f'Bearer realm="{request.url.origin()}/token",service="x",scope="y"'
            challenge = realm if self.has_tokens else 'Basic realm="x"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if "/blobs/" in request.path and self.redirect:
            raise web.HTTPTemporaryRedirect(self.redirect + request.path)
        found = {str(blob.digest): blob.data for blob in self.one.blobs}
        data = found.get(request.path.rpartition("/")[2], self.one.root.data)
        return web.Response(
            body=data,
            headers={"Docker-Content-Digest": str(Digest.of(data))},
            content_type="application/vnd.oci.image.manifest.v1+json",
        )


def config_json(folder: Path, registry: str, password: str = "s3cret") -> Path:
    auth = base64.b64encode(f"me:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    return folder


@pytest.mark.parametrize("has_tokens", [False, True], ids=["basic", "token"])
async def test_a_private_registry_gets_its_own_credentials(
    has_tokens: bool, tmp_path: Path
) -> None:
    """Right ones bring the image; with wrong ones the reason is told, and nothing is kept."""
    one = image()
    registry = PrivateRegistry(one, has_tokens=has_tokens)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", registry.handle)
    async with TestServer(app) as server, preheated(credentials=tmp_path) as node:
        host = f"127.0.0.1:{server.port}"
        reference = Reference.parse(f"{host}/team/app:1")
        config_json(tmp_path, host, "wrong")
        with pytest.raises(PreheatFailed) as raised:
            await node.lookup.resolve(reference)
        assert raised.value.fault is PreheatFault.NO_CREDENTIALS
        assert "wrong" not in str(raised.value).partition("given are wrong")[0]
        progress = await node.take(order(node, one, image=reference))
        assert (progress.stage, progress.why) == (PreheatStage.FAILED, "no-credentials")
        assert node.is_empty()
        config_json(tmp_path, host)
        assert (await node.lookup.resolve(reference)).digest == one.root.digest
        progress = await node.take(order(node, one, image=reference))
        assert progress.stage is PreheatStage.DONE


async def test_a_redirect_takes_no_credentials_along() -> None:
    """Neither to the other host, nor to the token server that the other host names."""
    one = image()
    registry, other = PrivateRegistry(one, has_tokens=False), PrivateRegistry(one, has_tokens=True)
    apps = [web.Application(), web.Application()]
    for app, each in zip(apps, (registry, other), strict=True):
        app.router.add_route("*", "/{tail:.*}", each.handle)
    async with TestServer(apps[0]) as first, TestServer(apps[1]) as second:
        registry.redirect = f"http://127.0.0.1:{second.port}"
        client = MirrorClient(
            mirror=f"http://me:s3cret@127.0.0.1:{first.port}",
            reference=Reference.parse("registry.example/team/app:1"),
            is_upstream=True,
        )
        async with client:
            with pytest.raises(PeerRefused) as raised:
                async with client.blob(child(one), 0):
                    pass
    assert raised.value.status == 401
    assert [given for _, given in other.seen] == [""]


def test_registries_are_asked_over_tls() -> None:
    """Save those of this machine, as in containerd, and those that the operator lists so."""
    plain = plain_registries(["http://registry.example:5000", "https://docker.io", "quay.io"])
    assert plain == {"registry.example:5000"}
    for registry, url in (
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("Registry.example:5000", "http://registry.example:5000"),
        ("registry.example", "https://registry.example"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
    ):
        assert registry_url(registry, plain=plain) == url


async def test_a_tag_is_resolved_at_its_registry_before_the_peers() -> None:
    """Peers may know an older digest; they are asked if the registry gives none."""
    old, new = image("old"), image("new")
    async with preheated(new) as node:
        node.mirror.add(old, "1")
        reference = Reference.parse(node.name())
        found = await node.lookup.resolve(reference)
        assert found.digest == new.root.digest
        assert found.seen is not None
        node.registry.tags.clear()
        assert await node.lookup.resolve(reference) == ResolvedImage(old.root.digest)
        node.mirror.tags.clear()
        with pytest.raises(PreheatFailed) as raised:
            await node.lookup.resolve(reference)
        assert raised.value.fault is PreheatFault.NOT_FOUND


class Unpacking(MemoryReplicas):
    """Replicas of which the memory only says that they are unpacked, or an error."""

    fault: Exception | None = None

    async def unpack(self, manifest: Digest) -> None:
        if self.fault is not None:
            raise self.fault
        self._held[manifest] = dataclasses.replace(self._held[manifest], is_unpacked=True)

    async def hold(self, replica: Replica) -> None:
        before = self._held.get(replica.image.manifest)
        await super().hold(replica)
        if replica.is_unpacked and before is not None and before.is_unpacked:
            self._held[replica.image.manifest] = replica


async def test_an_image_is_unpacked_once_it_is_here() -> None:
    """A content job before or after it changes nothing of that."""
    one = image()
    async with preheated(one, replicas=Unpacking) as node:
        content = order(node, one)
        deep = order(node, one, depth=PreheatDepth.UNPACKED)
        assert (await node.take(content)).stage is PreheatStage.DONE
        assert (await node.take(deep)).stage is PreheatStage.DONE
        for again in (deep, content):
            assert (await node.take(again)).stage is PreheatStage.HERE
            [replica] = node.replicas.held().values()
            assert replica.is_unpacked


async def test_a_store_that_cannot_unpack_has_the_content_and_says_so() -> None:
    one = image()
    async with preheated(one) as node:
        progress = await node.take(order(node, one, depth=PreheatDepth.UNPACKED))
        assert (progress.stage, progress.why) == (PreheatStage.DONE, "content-only")
        assert "memory" in progress.error
        assert len(node.replicas.held()) == 1


@pytest.mark.parametrize(
    ("fault", "stage", "why"),
    [
        (StoreFull("no space left"), PreheatStage.REFUSED, "no-room"),
        (ManifestInvalid("no layers"), PreheatStage.FAILED, "bad-manifest"),
    ],
)
async def test_an_image_that_cannot_be_unpacked_is_not_kept(
    fault: Exception, stage: PreheatStage, why: str
) -> None:
    """Unless it was kept before."""
    one = image()
    async with preheated(one, replicas=Unpacking) as node:
        assert isinstance(node.replicas, Unpacking)
        node.replicas.fault = fault
        deep = order(node, one, depth=PreheatDepth.UNPACKED)
        progress = await node.take(deep)
        assert (progress.stage, progress.why) == (stage, why)
        assert node.is_empty()
        await node.take(order(node, one))
        await node.take(deep)
        assert len(node.replicas.held()) == 1


async def test_an_unpacked_image_needs_more_room() -> None:
    """Its snapshots are on the same disk."""
    one = image(size=100_000)
    async with preheated(one, replicas=Unpacking, room=300_000) as node:
        progress = await node.take(order(node, one, depth=PreheatDepth.UNPACKED))
        assert (progress.stage, progress.why) == (PreheatStage.REFUSED, "no-room")
        assert (await node.take(order(node, one))).stage is PreheatStage.DONE


async def test_without_a_runtime_depth_runtime_is_refused() -> None:
    one = image()
    async with preheated(one) as node:
        progress = await node.take(order(node, one, depth=PreheatDepth.RUNTIME))
        assert (progress.stage, progress.why) == (PreheatStage.REFUSED, "no-cri")
