"""Clients that do not name the registry in the query: skopeo and buildah, as podman and CRI-O ask.

Their library takes the mirrors of `registries.conf`, each with a path. The registry itself does not
exist here, so every answer is a node's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node, layout
from tests.support import processes
from tests.support.images import image

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"
APP = image("clients")
HUB = image("hub")
NAME, HUB_NAME = "registry.example/team/app:1", "docker.io/library/tool:2"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    """A node that holds two images, and a node that holds none and asks the first one."""
    folder = tmp_path_factory.mktemp("clients")
    held = layout(folder / "layout", {NAME: APP, HUB_NAME: HUB})
    holder = Node(folder=folder / "holder", store=held)
    other = Node(
        folder=folder / "other",
        store={**layout(folder / "empty", {}), "default-registry": "docker.io"},
        bootstrap=holder.router,
    )
    try:
        await holder.start()
        await other.start()

        async def have_met() -> bool:
            with Client(other.metrics) as client:
                _, body = client.read("/debug/state")
            return any(peer["keys"] for peer in json.loads(body)["peers"])

        await processes.until(have_met, deadline=60.0)
        yield [holder, other]
    finally:
        await other.process.end()
        await holder.process.end()


@pytest.fixture(params=[0, 1], ids=["own store", "through a peer"])
def node(request: pytest.FixtureRequest, nodes: list[Node]) -> Node:
    found: Node = nodes[request.param]
    return found


@pytest.fixture
def registries(node: Node, tmp_path: Path) -> dict[str, str]:
    """An environment in which a node is the mirror of two registries."""
    on_the_page = code(GUIDE, "toml")
    mirrors = "\n".join(
        on_the_page.replace("registry.example", registry).replace("5000", str(node.registry))
        for registry in ("registry.example", "docker.io")
    )
    file = tmp_path / "registries.conf"
    file.write_text(mirrors)
    policy = tmp_path / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    return {"CONTAINERS_REGISTRIES_CONF": str(file), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("reference", "digest"),
    [
        (NAME, APP.root.digest),
        (f"registry.example/team/app@{APP.root.digest}", APP.root.digest),
        (HUB_NAME, HUB.root.digest),
        ("docker.io/tool:2", HUB.root.digest),
    ],
    ids=["tag", "digest", "hub", "short name"],
)
async def test_skopeo_copies_an_image(
    registries: dict[str, str], tmp_path: Path, reference: str, digest: object
) -> None:
    """Manifest, config and layers are there, and right: skopeo checks each digest."""
    target = tmp_path / "copied"
    copy = ["copy", "--all", f"docker://{reference}", f"oci:{target}:it"]
    await processes.run(*_skopeo(registries), *copy, environment=registries)
    index = json.loads((target / "index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [str(digest)]


async def test_skopeo_is_told_that_nobody_has_an_image(registries: dict[str, str]) -> None:
    """It goes on to the registry then, which is not there."""
    inspect = ["inspect", "docker://registry.example/team/none:1"]
    with pytest.raises(processes.CommandFailed, match=r"https://registry\.example/v2/"):
        await processes.run(*_skopeo(registries), *inspect, environment=registries)


@pytest.mark.root
async def test_buildah_pulls_an_image(registries: dict[str, str], tmp_path: Path) -> None:
    """As podman and CRI-O do, with the same library."""
    storage = ["--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run"]
    await processes.run(
        "buildah", *storage, "--storage-driver", "vfs", "pull", NAME, environment=registries
    )
    listed = await processes.run(
        "buildah", *storage, "--storage-driver", "vfs", "images", "--json", environment=registries
    )
    assert NAME in json.loads(listed)[0]["names"]


async def test_a_default_registry_names_what_dockerd_asks_for(nodes: list[Node]) -> None:
    """dockerd asks its registry-mirrors for `library/tool`, and names no registry."""
    holder, other = nodes
    for node, status in ((other, 200), (holder, 404)):
        with Client(node.registry) as client:
            assert client.read("/v2/library/tool/manifests/2")[0] == status
    with Client(holder.registry) as client:
        _, body = client.read("/v2/library/tool/manifests/2")
    assert "/v2/REGISTRY/REPOSITORY/" in json.loads(body)["errors"][0]["message"]


def code(page: Path, language: str) -> str:
    """Return the page's first block in a language."""
    return page.read_text().split(f"```{language}\n")[1].partition("```")[0]


def _skopeo(environment: dict[str, str]) -> list[str]:
    return ["skopeo", "--registries-conf", environment["CONTAINERS_REGISTRIES_CONF"]]
