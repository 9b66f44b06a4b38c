"""Side by side with the real Spegel: one DHT, two nodes of ours and one of its, each on its own
containerd.

`SPEGEL_BIN=/path/to/spegel pytest tests/interop` runs these tests; without a binary they are
skipped.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from spegel_py.oci.build import Image
from tests.integration.cluster import blob_path, gone, manifest_path, metric, registry_away
from tests.integration.test_faults import SIZE, pulling
from tests.interop.mixed import SPEGEL, Mixed, offered, start_mixed
from tests.support.images import image
from tests.support.lab import Node, until
from tests.support.processes import CommandFailed, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not SPEGEL, reason="SPEGEL_BIN names no Spegel binary to stand beside"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Mixed]:
    async with start_mixed(2) as mixed:
        yield mixed


@pytest_asyncio.fixture(loop_scope="module")
async def mixed(cluster: Mixed) -> Mixed:
    """Two nodes of ours and one of Spegel's, all of which run again before each test."""
    await cluster.heal()
    return cluster


def pair(mixed: Mixed, *, holder: str) -> tuple[Node, Node]:
    """Return who holds an image and who pulls it: one is ours, the other Spegel's."""
    one, two = mixed.ours[0], mixed.theirs
    return (one, two) if holder == "ours" else (two, one)


async def publish(mixed: Mixed, reference: str, app: Image, holder: Node, *finders: Node) -> None:
    """Have one node hold an image, and wait until others find all of it."""
    await mixed.lab.registry.push(reference, app)
    await holder.cri.pull(reference)
    if holder is mixed.theirs:
        await mixed.have_theirs_tell_all()
    for node in finders:
        await offered(
            node, manifest_path(reference), manifest_path(app.root), *map(blob_path, app.blobs[1:])
        )
    mixed.lab.registry.forget()


holders = pytest.mark.parametrize("holder", ["ours", "theirs"])


@holders
@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_each_pulls_from_the_other(mixed: Mixed, holder: str, by: str) -> None:
    """With the registry stopped, the Go node pulls from ours and ours from the Go node, by tag and
    by digest.
    """
    app = image(f"{holder}/{by}", layers=3, size=300_000)
    tag = mixed.lab.name(f"test/app:{holder}-{by}")
    reference = f"{mixed.lab.name('test/app')}@{app.root.digest}" if by == "digest" else tag
    source, puller = pair(mixed, holder=holder)
    await publish(mixed, tag, app, source, puller)
    if source is mixed.theirs:
        assert await metric(puller, "spegel_dht_records", kind="provided") > 0
    async with registry_away(mixed.lab):
        await puller.cri.pull(reference)


async def test_an_image_goes_round_among_three(mixed: Mixed) -> None:
    """With the registry stopped an image goes from ours to the Go node, and from it alone to our
    other node.
    """
    app = image("round", layers=3, size=300_000)
    reference = mixed.lab.name("test/app:round")
    first, second = mixed.ours
    await publish(mixed, reference, app, first, mixed.theirs)
    async with registry_away(mixed.lab):
        await mixed.theirs.cri.pull(reference)
        await mixed.have_theirs_tell_all()
        await mixed.kill(first)
        await offered(second, manifest_path(reference), *map(blob_path, app.blobs[1:]))
        await second.cri.pull(reference)


async def deleted(node: Node, reference: str, app: Image) -> None:
    """Delete an image and wait until containerd has collected it."""
    await node.cri.remove(reference)

    async def is_collected() -> bool:
        return not any(node.daemon.path(blob.digest).exists() for blob in app.blobs)

    await until(is_collected)


@holders
async def test_a_deleted_image_is_soon_not_found_and_comes_from_upstream(
    mixed: Mixed, holder: str
) -> None:
    """Though records of it live on among standard peers, the other one answers 404, and its pull
    goes upstream.
    """
    app = image(f"deleted/{holder}", layers=3, size=300_000)
    reference = mixed.lab.name(f"test/app:deleted-{holder}")
    source, puller = pair(mixed, holder=holder)
    await publish(mixed, reference, app, source, puller)
    await deleted(source, reference, app)
    for path in (manifest_path(reference), manifest_path(app.root), *map(blob_path, app.blobs[1:])):
        await gone(puller, path, deadline=10)
    await puller.cri.pull(reference)
    assert len(mixed.lab.registry.requests("GET")) == len(app.blobs)


@holders
async def test_a_holder_that_died_is_in_nobody_s_way(mixed: Mixed, holder: str) -> None:
    """Killed while nothing is being pulled, a node is passed by: the other one's pull succeeds from
    upstream.
    """
    app = image(f"dead/{holder}", layers=3, size=300_000)
    reference = mixed.lab.name(f"test/app:dead-{holder}")
    source, puller = pair(mixed, holder=holder)
    await publish(mixed, reference, app, source, puller)
    await mixed.kill(source)
    await puller.cri.pull(reference)
    assert len(mixed.lab.registry.requests("GET")) == len(app.blobs)


async def test_a_dead_go_node_is_let_go(mixed: Mixed) -> None:
    """When the Go node dies, ours answer 404 for what it held, fast."""
    app = image("let-go")
    reference = mixed.lab.name("test/app:let-go")
    await publish(mixed, reference, app, mixed.theirs, *mixed.ours)
    await mixed.kill(mixed.theirs)
    for node in mixed.ours:
        await gone(node, manifest_path(reference), deadline=5)


@holders
async def test_a_pull_survives_the_death_of_the_holder(mixed: Mixed, holder: str) -> None:
    """Killed in mid-blob, a node takes nobody's pull with it: containerd asks the registry for the
    rest.
    """
    app = image(f"broken/{holder}", layers=1, size=SIZE)
    reference = mixed.lab.name(f"test/app:broken-{holder}")
    source, puller = pair(mixed, holder=holder)
    await publish(mixed, reference, app, source, puller)
    async with pulling(puller, reference):
        await mixed.kill(source)


@holders
async def test_a_pull_survives_the_death_of_its_own_mirror(mixed: Mixed, holder: str) -> None:
    """Killed in mid-blob while it relays from the other kind, a mirror leaves containerd to go on
    upstream.
    """
    app = image(f"own/{holder}", layers=1, size=SIZE)
    reference = mixed.lab.name(f"test/app:own-{holder}")
    source, puller = pair(mixed, holder=holder)
    await publish(mixed, reference, app, source, puller)
    async with pulling(puller, reference):
        await mixed.kill(puller)


async def test_a_go_node_is_known_for_what_it_is(mixed: Mixed) -> None:
    """It is counted as one that speaks Kademlia only, and a command that asks it says what answers
    there.
    """
    [one, _] = mixed.ours

    async def is_counted() -> bool:
        speaking = [
            await metric(one, "spegel_dht_peers", protocol=name)
            for name in ("announce", "kademlia")
        ]
        return speaking == [1, 1]

    await until(is_counted, deadline=30)
    asking = (*one.namespace.prefix, sys.executable, "-m", "spegel_py", "status", "--node")
    with pytest.raises(CommandFailed, match=r"that is Spegel \(Go\)"):
        await run(*asking, f"{mixed.theirs.address}:9090")


async def test_the_binary_is_there() -> None:
    """SPEGEL_BIN names a file that exists."""
    assert Path(SPEGEL).is_file()
