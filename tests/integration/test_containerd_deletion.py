"""Deleted content: peers learn of it though garbage collection is silent, and no answer breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from spegel_py.oci.build import Blob, Image
from tests.integration.cluster import blob_path, manifest_path, publish, start_cluster
from tests.integration.observer import Observer, keys, observing
from tests.support.images import image
from tests.support.lab import Lab, Node, Response, until

pytestmark = [pytest.mark.root, pytest.mark.containerd, pytest.mark.asyncio(loop_scope="module")]

PROMISED = 2.0
"""Seconds after which peers know that content is gone."""

LARGE = 6_000_000
"""Bytes of a layer that is sent as it arrives, and not verified first."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cluster() -> AsyncIterator[Lab]:
    async with start_cluster(3) as lab:
        yield lab


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def observer(cluster: Lab) -> AsyncIterator[Observer]:
    async with observing(cluster) as observer:
        yield observer


async def remove_with_cri(node: Node, reference: str) -> None:
    await node.cri.remove(reference)


async def remove_with_ctr(node: Node, reference: str) -> None:
    """Remove every name, because `ctr` does not know that an image has several."""
    listed = (await node.daemon.ctr("images", "ls")).splitlines()
    [digest] = [line.split()[2] for line in listed if line.startswith(f"{reference} ")]
    await node.daemon.ctr(
        "images", "rm", "--sync", *(line.split()[0] for line in listed if digest in line)
    )


async def collected(node: Node, app: Image) -> float:
    """Wait until containerd has removed an image's files. Return the time of that."""

    async def is_gone() -> bool:
        return not any(node.daemon.path(blob.digest).exists() for blob in app.blobs)

    await until(is_gone, deadline=20)
    return time.monotonic()


@pytest.mark.parametrize("remove", [remove_with_cri, remove_with_ctr])
async def test_peers_know_within_two_seconds_that_content_was_collected(
    cluster: Lab, observer: Observer, remove: Callable[[Node, str], Awaitable[None]]
) -> None:
    """Peers are sent to this node for at most two seconds after its blobs are gone."""
    app = image(f"collected/{remove.__name__}")
    reference = cluster.name(f"test/app:{remove.__name__.replace('_', '-')}")
    holder, *others = cluster.nodes
    await publish(cluster, reference, app, holder)
    await observer.sees(holder, keys(reference, app))
    await remove(holder, reference)
    since = await collected(holder, app)
    await observer.misses(holder, keys(reference, app))
    assert time.monotonic() - since < PROMISED
    for node in others:
        for path in (manifest_path(reference), *map(blob_path, app.blobs[1:])):
            assert (await node.get(path)).status == 404


async def test_a_blob_deleted_by_hand_is_withdrawn_and_the_rest_of_its_image_stays(
    cluster: Lab, observer: Observer
) -> None:
    """Lost content of an image is withdrawn. The rest stays."""
    app = image("by-hand")
    reference = cluster.name("test/app:by-hand")
    holder = cluster.nodes[0]
    await publish(cluster, reference, app, holder)
    await observer.sees(holder, keys(reference, app))
    lost = str(app.blobs[-1].digest)
    await holder.daemon.ctr("content", "rm", lost)
    await observer.misses(holder, {lost})
    await observer.sees(holder, keys(reference, app) - {lost})


# Files that disappear while they are requested


@asynccontextmanager
async def streaming(node: Node, blob: Blob) -> AsyncIterator[list[Response]]:
    """Request a blob repeatedly, two at a time. Each answer must be the whole blob or a 404."""
    answers: list[Response] = []
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            answer = await node.get(blob_path(blob))
            assert answer.status in (200, 404)
            assert answer.status == 404 or answer.body == blob.data
            answers.append(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(ask())
        yield answers
        is_over.set()


async def answered(answers: list[Response], status: int, *, count: int = 10) -> None:
    """Wait until the latest answers all have this status."""

    async def is_so() -> bool:
        latest = answers[-count:]
        return len(latest) == count and all(answer.status == status for answer in latest)

    await until(is_so, deadline=30)


@pytest.mark.parametrize("size", [50_000, LARGE], ids=["verified", "streamed"])
async def test_a_blob_that_vanishes_comes_from_the_next_holder_and_then_is_not_found(
    cluster: Lab, size: int
) -> None:
    """During requests one holder loses the file, then the other: whole answers, then only 404s."""
    app = image(f"vanishing/{size}", layers=1, size=size)
    blob = app.blobs[-1]
    reference = cluster.name(f"test/app:vanishing-{size}")
    first, second, asker = cluster.nodes
    await publish(cluster, reference, app, first, second)
    async with streaming(asker, blob) as answers:
        await answered(answers, 200)
        first.daemon.path(blob.digest).unlink()
        seen = len(answers)
        await answered(answers, 200)
        await until(lambda: _has(answers, seen + 20), deadline=30)
        assert all(answer.status == 200 for answer in answers)
        second.daemon.path(blob.digest).unlink()
        await answered(answers, 404)


async def test_a_file_that_comes_and_goes_is_never_a_broken_answer(cluster: Lab) -> None:
    """If the file disappears between lookup and opening, its node answers 404, and never half a
    200.
    """
    app = image("flickering", layers=1, size=LARGE)
    blob = app.blobs[-1]
    reference = cluster.name("test/app:flickering")
    holder, asker, _ = cluster.nodes
    await publish(cluster, reference, app, holder)
    path = holder.daemon.path(blob.digest)
    aside = path.with_suffix(".aside")
    async with streaming(holder, blob) as local, streaming(asker, blob) as relayed:
        for number in range(300):
            if number % 2:
                aside.rename(path)
            else:
                path.rename(aside)
            await asyncio.sleep(0.001 * (number % 10))
        await answered(local, 200)
    assert {answer.status for answer in local} == {200, 404}
    assert relayed


async def _has(answers: list[Response], count: int) -> bool:
    return len(answers) >= count
