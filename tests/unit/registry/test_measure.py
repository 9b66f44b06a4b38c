"""Measuring pulls through real registries, and its JSON on the metrics port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.images import LocalImages
from spegel_py.admin.measurer import Measurer
from spegel_py.admin.routes import LINES, image_routes
from spegel_py.errors import Occupied
from spegel_py.oci.build import Image
from spegel_py.registry.server import serve
from spegel_py.tools.basic_auth import Credentials
from tests.support.images import image
from tests.unit.registry.conftest import Node, NodeFactory

NAME = "r.io/app:1"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


@pytest.fixture
async def peer(start: NodeFactory) -> AsyncIterator[Node]:
    async with start("peer") as peer:
        yield peer


async def hold(node: Node, *blobs: Any, tag: Image | None = None) -> None:
    """Put blobs into a node's store, and tell the others."""
    for blob in blobs:
        node.store.add(blob.data)
    if tag:
        node.store.tag(NAME, tag.root.digest)
    await node.network.join(node.peer).advertise([*node.store.keys])


async def measured(mirror: str, what: str = NAME) -> dict[str, Any]:
    """Measure to the end."""
    steps = [json.dumps(step.as_json()) async for step in Measurer(mirror=mirror).follow(what)]
    assert [json.loads(step)["over"] for step in steps] == [False] * (len(steps) - 1) + [True]
    last: dict[str, Any] = json.loads(steps[-1])
    return last


def url(node: Node) -> str:
    return f"http://127.0.0.1:{node.port}"


async def test_each_part_says_where_it_came_from(node: Node, peer: Node) -> None:
    """A layer from here, one from the peer, one from nobody, where a runtime would go to the
    registry.
    """
    app = image("app", layers=3, size=100_000)
    manifest, config, *layers = app.blobs
    await hold(peer, manifest, config, layers[0], tag=app)
    await hold(node, layers[1])
    found = await measured(url(node))
    assert [(part["kind"], part["source"], part["peer"]) for part in found["parts"]] == [
        ("manifest", "peer", "peer"),
        ("blob", "peer", "peer"),
        ("blob", "peer", "peer"),
        ("blob", "local", None),
        ("blob", "none", None),
    ]
    from_peer = sum(len(blob.data) for blob in (manifest, config, layers[0]))
    assert found["sources"] == {"local": len(layers[1].data), "peer": from_peer}
    assert found["bytes"] == from_peer + len(layers[1].data)
    assert (found["size"], found["missing"], found["error"]) == (
        sum(len(blob.data) for blob in app.blobs),
        1,
        None,
    )
    assert all(part["ms"] > 0 for part in found["parts"])
    assert found["seconds"] > 0


async def test_of_an_index_one_platform_is_measured(node: Node) -> None:
    """This machine's: its manifest is a part too."""
    both = image("app", layers=1, platforms=("amd64", "arm64"))
    await hold(node, *both.blobs, tag=both)
    found = await measured(url(node))
    assert [part["kind"] for part in found["parts"]] == ["manifest", "manifest", "blob", "blob"]


async def test_an_image_that_nobody_has_is_one_missing_part(node: Node) -> None:
    """By its tag and by its digest."""
    for what in (NAME, f"r.io/app@{image('app').root.digest}"):
        found = await measured(url(node), what)
        assert [part["source"] for part in found["parts"]] == ["none"]
        assert (found["missing"], found["bytes"], found["error"]) == (1, 0, None)


async def test_what_is_wrong_with_the_mirror_is_told(node: Node) -> None:
    """Nobody listens; it wants a password; the image is for other machines."""
    found = await measured("http://127.0.0.1:1")
    assert "no connection to http://127.0.0.1:1" in found["parts"][0]["error"]
    assert found["missing"] == 1
    foreign = image("app", platforms=("s390x", "riscv64"))
    await hold(node, *foreign.blobs, tag=foreign)
    assert (await measured(url(node)))["error"].startswith("the image is not there for linux/")


async def test_a_mirror_with_a_password_is_measured(start: NodeFactory) -> None:
    """It stands in the URL that the node makes for itself, and is not shown."""
    async with start(credentials=Credentials(username="me", password="p@:w")) as node:
        app = image("app")
        await hold(node, *app.blobs, tag=app)
        found = await measured(f"http://me:p%40%3Aw@127.0.0.1:{node.port}")
        assert found["missing"] == 0
        assert "p@" not in json.dumps(await measured(url(node)))


async def test_one_image_is_measured_at_a_time(node: Node) -> None:
    """The second is refused until the first is over, or whoever asked for it has left."""
    app = image("app")
    await hold(node, *app.blobs, tag=app)
    measurer = Measurer(mirror=url(node))
    first = measurer.follow(NAME)
    await anext(first)
    with pytest.raises(Occupied, match="is being measured"):
        await anext(measurer.follow(NAME))
    with pytest.raises(Occupied):
        measurer.start(NAME)
    await first.aclose()
    measurer.start(NAME)
    await measurer.stop()
    assert [step async for step in measurer.follow(NAME)][-1].is_over


@pytest.fixture
async def aside(node: Node) -> AsyncIterator[str]:
    """The node's metrics port."""
    images = LocalImages(
        store=node.store,
        holders=HolderCache(router=node.network.join(node.peer)),
        tags=lambda: {name: 5.0 for name in node.store.keys if "/" in name},
        held=lambda: node.store.keys,
    )
    async with serving(node, images, Measurer(mirror=url(node))) as port:
        yield f"http://127.0.0.1:{port}"


def serving(node: Node, images: LocalImages, measurer: Measurer | None) -> Any:
    async def state() -> dict[str, object]:
        return {}

    routes = image_routes(images=images, measurer=measurer)
    return serve(
        create_admin_app(render=node.metrics.render, state=state, routes=routes), "127.0.0.1:0"
    )


async def test_a_measurement_is_one_object_or_a_line_for_each_step(node: Node, aside: str) -> None:
    """As the client wishes; the last line is the object."""
    app = image("app")
    await hold(node, *app.blobs, tag=app)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{aside}/debug/measure", params={"image": NAME}) as response:
            whole = await response.json()
        async with session.post(
            f"{aside}/debug/measure", params={"image": NAME}, headers={"Accept": LINES}
        ) as response:
            assert response.content_type == LINES
            lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert (whole["over"], whole["missing"]) == (True, 0)
    assert lines[-1]["over"]
    assert [part["digest"] for part in lines[-1]["parts"]] == [
        part["digest"] for part in whole["parts"]
    ]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/debug/measure", 400, "?image= must say what is measured"),
        ("POST", "/debug/measure?image=app", 400, "write it as in registry.example/app:1"),
        ("GET", "/debug/measure?image=r.io/app:1", 405, "'GET' is not served here"),
        (
            "GET",
            "/debug/images?limit=0",
            400,
            "?limit= should be a whole number from 1 to 1000, not '0'",
        ),
        ("GET", "/debug/images?offset=-1", 400, "?offset= should be a whole number"),
    ],
)
async def test_what_is_asked_wrongly_is_explained(
    aside: str, method: str, path: str, status: int, message: str
) -> None:
    """In one line that names the parameter."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, aside + path) as response,
    ):
        assert response.status == status
        assert message in (await response.json())["errors"][0]["message"]


async def test_images_are_listed_as_json(node: Node, aside: str) -> None:
    """By part of a name, from an offset, so many."""
    app = image("app")
    await hold(node, *app.blobs, tag=app)
    query = {"part": "app", "offset": "0", "limit": "5"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{aside}/debug/images", params=query) as response,
    ):
        found = await response.json()
    assert [one["name"] for one in found["images"]] == [NAME]
    assert (found["total"], found["held"], found["error"]) == (1, 1, None)


async def test_where_the_page_is_switched_off_nobody_measures(node: Node) -> None:
    """The images are listed still."""
    images = LocalImages(
        store=node.store,
        holders=HolderCache(router=node.network.join(node.peer)),
        tags=dict,
        held=lambda: node.store.keys,
    )
    async with serving(node, images, None) as port, aiohttp.ClientSession() as session:
        async with session.post(f"http://127.0.0.1:{port}/debug/measure?image={NAME}") as response:
            assert response.status == 403
            assert "--debug-web-enabled=false" in (await response.json())["errors"][0]["message"]
        async with session.get(f"http://127.0.0.1:{port}/debug/images") as response:
            assert response.status == 200


async def test_who_leaves_ends_what_is_measured(node: Node, aside: str) -> None:
    """So that the next one may measure."""
    app = image("app", layers=1, size=30_000_000)
    await hold(node, *app.blobs, tag=app)
    async with aiohttp.ClientSession() as session:
        async with session.post(
            f"{aside}/debug/measure", params={"image": NAME}, headers={"Accept": LINES}
        ) as response:
            await response.content.readline()
        async with asyncio.timeout(10):
            while True:
                async with session.post(
                    f"{aside}/debug/measure", params={"image": NAME}
                ) as response:
                    if response.status == 200:
                        break
                    assert response.status == 409
