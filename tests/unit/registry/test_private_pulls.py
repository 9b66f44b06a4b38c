"""Private images on the wire: what the runtime, the registry and the peers see of credentials."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from spegel_py.oci.digest import Digest
from spegel_py.registry.access_check import AccessCheck
from spegel_py.registry.image_guard import ImageGuard
from spegel_py.registry.private_rules import PublicImages, WhenDown
from spegel_py.registry.verdict_memory import VerdictMemory
from spegel_py.store.memory_store import MemoryStore
from spegel_py.tools.runtime_token import TokenFile, write_tokens
from tests.support.images import image
from tests.support.private_registry import (
    BASIC,
    PASSWORD,
    WRONG,
    PrivateRegistry,
    private_registry,
)
from tests.unit.mirror.peers import FakePeer
from tests.unit.registry.conftest import Node, NodeFactory

IMAGE = image("private", layers=1)
REPOSITORY = "team/app"
TOKEN = "a" * 64
RUNTIME = f"X-Spegel-Runtime: {TOKEN}"
SECRETS = (BASIC, BASIC.removeprefix("Basic "), PASSWORD, WRONG.removeprefix("Basic "))


class FakeOrigins:
    """Says of all content that it came from `all`."""

    def __init__(self, *sources: str) -> None:
        self.all = frozenset(sources)

    async def sources(self, _digest: Digest) -> frozenset[str]:
        return self.all


@pytest.fixture
async def registry() -> AsyncIterator[PrivateRegistry]:
    async with private_registry(IMAGE, repository=REPOSITORY) as served:
        yield served


@pytest.fixture
def guard(registry: PrivateRegistry, tmp_path: Path) -> Callable[[], ImageGuard]:
    def make() -> ImageGuard:
        listed = frozenset({registry.address})
        return ImageGuard(
            check=AccessCheck(hosts=None, listed=listed, plain=listed),
            memory=VerdictMemory(tmp_path),
            public=PublicImages(["docker.io"]),
            when_down=WhenDown.CACHED,
        )

    return make


@pytest.fixture
def options(tmp_path: Path, guard: Callable[[], ImageGuard]) -> dict[str, Any]:
    """The settings of a guarded node."""
    write_tokens(tmp_path / "token", [TOKEN])
    return {"guard": guard(), "tokens": TokenFile(tmp_path / "token")}


def manifest(registry: PrivateRegistry, reference: object = "1", name: str = REPOSITORY) -> str:
    return f"/v2/{name}/manifests/{reference}?ns={registry.address}"


async def test_a_private_image_is_given_with_the_registrys_consent_only(
    start: NodeFactory, registry: PrivateRegistry, options: dict[str, Any], tmp_path: Path
) -> None:
    """One HEAD at the registry; and no peer, log, record or file sees the credentials."""
    fake = FakePeer(IMAGE.root.data, media_type=IMAGE.media_type, digest=IMAGE.root.digest)
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            node: Node = await stack.enter_async_context(start(**options))
            at = await stack.enter_async_context(fake.serve("peer"))
            await node.network.join(at).advertise([str(IMAGE.root.digest)])
            client = await node.client()
            first = await client.ask("HEAD", manifest(registry), RUNTIME)
            assert first.status == 401
            assert first.headers["www-authenticate"] == 'Basic realm="private"'
            for given, status in ((WRONG, 403), (BASIC, 200)):
                target, line = manifest(registry), f"Authorization: {given}"
                assert (await client.ask("GET", target, RUNTIME, line)).status == status
            answer = await client.ask("GET", manifest(registry), RUNTIME, f"Authorization: {BASIC}")
            assert answer.body == IMAGE.root.data
            shown = json.dumps(node.pull_log.find(None, limit=100)) + repr(options["guard"])
    assert fake.requests
    assert all(str(IMAGE.root.digest) in line for line, _ in fake.requests)
    assert len(registry.asked("HEAD")) == 2
    assert registry.asked("GET") == ["/v2/"]
    seen = [shown, repr(fake.requests), repr(logs)]
    seen += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in SECRETS:
        assert not any(secret in text for text in seen)


async def test_the_record_says_why(
    start: NodeFactory, registry: PrivateRegistry, options: dict[str, Any]
) -> None:
    """A challenge is no miss: the client comes again."""
    async with start(**options) as node:
        client = await node.client()
        await client.ask("HEAD", manifest(registry), RUNTIME)
        await client.ask("HEAD", manifest(registry), RUNTIME, f"Authorization: {WRONG}")
        refused, challenged = node.pull_log.find(None, limit=10)
        assert (challenged["reason"], challenged["status"]) == ("challenged", 401)
        assert (refused["reason"], refused["status"]) == ("private", 403)
        assert "refuses" in refused["text"]
        assert await node.counted("spegel_mirror_misses_total") == {("private",): 1.0}


async def test_peers_are_trusted_and_content_goes_by_its_origin(
    start: NodeFactory, registry: PrivateRegistry, options: dict[str, Any]
) -> None:
    """A peer needs no credentials. Nobody gets content under the name of another repository."""
    store, own = MemoryStore(), f"{registry.address}/{REPOSITORY}"
    store.add(IMAGE.root.data, f"{own}:1")
    origins = FakeOrigins(own.replace(f":{registry.address.rpartition(':')[2]}", ""))
    async with start(store=store, origins=origins, **options) as node:
        client, digest = await node.client(), IMAGE.root.digest
        peer, runtime = "X-Spegel-Mirrored: true", f"Authorization: {BASIC}"
        assert (await client.ask("GET", manifest(registry, digest), peer)).status == 200
        assert registry.requests == []
        assert (await client.ask("GET", manifest(registry, digest), RUNTIME, runtime)).status == 200
        registry.allowed.add("team/evil")
        evil = manifest(registry, digest, "team/evil")
        public = f"/v2/library/evil/manifests/{digest}?ns=docker.io"
        unnamed = f"/v2/team/app/manifests/{digest}"
        for target in (evil, public, unnamed):
            for line in (peer, RUNTIME):
                assert (await client.ask("GET", target, line, runtime)).status == 404
        origins.all |= {"docker.io/library/debian"}
        assert (await client.ask("GET", public, RUNTIME)).status == 200
        assert (await client.ask("GET", public, peer)).status == 200


async def test_without_guard_nothing_is_asked(
    start: NodeFactory, registry: PrivateRegistry, options: dict[str, Any]
) -> None:
    store = MemoryStore()
    store.add(IMAGE.root.data, f"{registry.address}/{REPOSITORY}:1")
    async with start(store=store, tokens=options["tokens"]) as node:
        client = await node.client()
        assert (await client.ask("GET", manifest(registry), RUNTIME)).status == 200
    assert registry.requests == []
