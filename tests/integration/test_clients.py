"""Clients that do not name the registry in the query: skopeo and buildah, as podman and CRI-O ask.

Their library takes the mirrors of `registries.conf`, each with a path. The registry itself does not
exist here, so every answer is a node's.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import aiohttp
import pytest

from spegel_py.host import buildkitd_toml, registries_conf
from spegel_py.host.registries import parse_registries
from tests.benchmarks.client import Client
from tests.benchmarks.nodes import Node
from tests.support import processes
from tests.support.client_nodes import APP, HUB, HUB_NAME, NAME, configure, nodes, short

__all__ = ["nodes", "short"]  # fixtures

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

DOCKERD = Path(__file__).parents[2] / ".ci" / "dockerd"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"


@pytest.fixture(params=[0, 1], ids=["own store", "through a peer"])
def node(request: pytest.FixtureRequest, nodes: list[Node]) -> Node:
    found: Node = nodes[request.param]
    return found


@pytest.fixture
def registries(node: Node, tmp_path: Path) -> dict[str, str]:
    """An environment in which `configuration` has made a node the mirror of two registries."""
    containers = tmp_path / ".config" / "containers"
    containers.mkdir(parents=True)
    accepting = {"default": [{"type": "insecureAcceptAnything"}]}
    (containers / "policy.json").write_text(json.dumps(accepting))
    file = containers / "registries.conf.d" / "spegel-py.conf"
    target = f"http://127.0.0.1:{node.registry}"
    named = ["--mirrored-registries", "registry.example", "docker.io", "--mirror-targets", target]
    configure("podman", file, *named)
    return {"HOME": str(tmp_path)}


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
    await processes.run("skopeo", *copy, environment=registries)
    index = json.loads((target / "index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [str(digest)]


async def test_skopeo_is_told_that_nobody_has_an_image(registries: dict[str, str]) -> None:
    """It goes on to the registry then, which is not there."""
    inspect = ["inspect", "docker://registry.example/team/none:1"]
    with pytest.raises(processes.CommandFailed, match=r"https://registry\.example/v2/"):
        await processes.run("skopeo", *inspect, environment=registries)


@pytest.mark.root
@pytest.mark.parametrize(
    ("program", "option", "names"),
    [("buildah", "--json", "names"), ("podman", "--format=json", "Names")],
    ids=["buildah", "podman"],
)
async def test_an_image_is_pulled(
    registries: dict[str, str], short: Path, program: str, option: str, names: str
) -> None:
    """By podman, and by buildah; CRI-O has the same library."""
    storage = ["--root", f"{short}/root", "--runroot", f"{short}/run"]
    command = [program, *storage, "--storage-driver", "vfs"]
    await processes.run(*command, "pull", NAME, environment=registries)
    listed = await processes.run(*command, "images", option, environment=registries)
    assert NAME in json.loads(listed)[0][names]


async def test_the_guide_shows_what_is_written() -> None:
    """Without the comment."""
    written = registries_conf.render(
        parse_registries(["registry.example"]), ["http://127.0.0.1:5000"]
    )
    assert code(GUIDE, "toml") == written.removeprefix(registries_conf.HEAD).lstrip()
    added = buildkitd_toml.add(
        "", parse_registries(["registry.example"]), ["http://127.0.0.1:5000"]
    )
    shown = GUIDE.read_text().rpartition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(shown) == tomllib.loads(added)


@pytest.mark.root
async def test_dockerd_pulls_an_image(nodes: list[Node], short: Path) -> None:
    """Through the mirror that `configuration` added to its daemon.json, which names no registry."""
    other, socket = nodes[1], short / "docker.sock"
    file = short / "docker" / "daemon.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"data-root": str(short / "data"), "storage-driver": "vfs"}))
    configure("docker", file, "--mirror-targets", f"http://127.0.0.1:{other.registry}")
    program = (await processes.run(str(DOCKERD), deadline=300.0)).splitlines()[-1]
    places = ["--exec-root", f"{short}/exec", "--pidfile", f"{short}/pid"]
    quiet = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    dockerd = processes.Process(
        command=[program, "--config-file", str(file), "-H", f"unix://{socket}", *places, *quiet],
        log=short / "dockerd.log",
    )
    async with aiohttp.ClientSession(
        "http://docker", connector=aiohttp.UnixConnector(str(socket))
    ) as client:

        async def is_up() -> bool:
            try:
                async with client.get("/_ping") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        try:
            await dockerd.start(is_up, deadline=60.0)
            pull = {"fromImage": "tool", "tag": "2"}
            async with client.post("/images/create", params=pull) as answer:
                progress = await answer.text()
            assert f"Digest: {HUB.root.digest}" in progress, progress + dockerd.output[-2000:]
        finally:
            await dockerd.end()


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
