"""The door of a node's own containerd: its token opens it, and a refusal fails no pull.

Each test runs with one port for containerd and peers, and with a port of containerd's own, where
peers have to prove who they are.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from spegel_py.tools.runtime_token import read_tokens
from tests.integration.cluster import (
    blob_path,
    everybody,
    joined,
    limited,
    manifest_path,
    publish,
    registry_away,
)
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node, Response, start_lab
from tests.support.processes import run

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True, slots=True)
class Doors:
    """Two nodes with a token each; `port` is the one for containerd, at 127.0.0.1."""

    lab: Lab
    port: int

    @property
    def nodes(self) -> tuple[Node, Node]:
        """The node that holds images, and the node that pulls them."""
        holder, puller = self.lab.nodes
        return holder, puller

    @property
    def has_own_port(self) -> bool:
        return self.port != 5000

    async def configure(self, node: Node, *more: str) -> None:
        """Let `spegel-py configuration` write the hosts.toml."""
        await run(
            *(sys.executable, "-m", "spegel_py", "configuration", "--node-name", node.address),
            *("--containerd-registry-config-path", str(node.daemon.certs)),
            *("--mirror-targets", f"http://127.0.0.1:{self.port}"),
            *("--mirrored-registries", f"http://{REGISTRY}", *more),
        )

    async def renew(self, node: Node) -> None:
        """Make a new token, as the init container does at each start."""
        await self.configure(node, "--runtime-token", str(token_file(node)))

    async def get(self, node: Node, path: str) -> Response:
        """Ask as a process of the machine without the token does."""
        return await node.get(path, host="127.0.0.1", port=self.port)


def token_file(node: Node) -> Path:
    return node.folder / "data" / "runtime-token"


def hosts_toml(node: Node) -> Path:
    return node.daemon.certs / REGISTRY / "hosts.toml"


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[5000, 5002], ids=["one port", "own port"]
)
async def doors(request: pytest.FixtureRequest) -> AsyncIterator[Doors]:
    async with start_lab(nodes=2) as lab:
        doors = Doors(lab, request.param)
        for node in lab.nodes:
            await doors.renew(node)
            await node.start_spegel(
                static_bootstrap_peers=everybody(lab),
                runtime_addr="127.0.0.1:5002" if doors.has_own_port else None,
                peer_proofs="require" if doors.has_own_port else None,
                runtime_token=str(token_file(node)),
                node_name=node.address,
            )
        await joined(*lab.nodes)
        yield doors


@pytest.mark.containerd
@pytest.mark.parametrize("with_cri", [True, False], ids=["CRI", "ctr"])
async def test_a_runtime_with_the_token_gets_all_of_an_image_from_peers(
    doors: Doors, with_cri: bool
) -> None:
    """The token before the newest one counts too: a pull that is under way still sends it."""
    holder, node = doors.nodes
    reference = doors.lab.name(f"test/app:token-{with_cri}".lower())
    await publish(doors.lab, reference, image(reference, layers=3), holder)
    earlier = hosts_toml(node).read_text()
    await doors.renew(node)
    newest = hosts_toml(node).read_text()
    for text in (earlier, newest):
        hosts_toml(node).write_text(text)
        async with registry_away(doors.lab):
            await pull(node, reference, with_cri=with_cri)
        await node.daemon.ctr("images", "rm", "--sync", reference)


@pytest.mark.containerd
@pytest.mark.parametrize(
    ("with_cri", "sent"), [(True, "none"), (False, "wrong")], ids=["CRI, none", "ctr, wrong"]
)
async def test_a_refused_runtime_pulls_from_the_registry(
    doors: Doors, with_cri: bool, sent: str
) -> None:
    """A hosts.toml without the token, or with an old one, costs the mirror, not the pull."""
    holder, node = doors.nodes
    reference = doors.lab.name(f"test/app:refused-{with_cri}-{sent}".lower())
    app = image(reference, layers=2)
    await publish(doors.lab, reference, app, holder)
    await (doors.configure(node) if sent == "none" else doors.renew(node))
    if sent == "wrong":
        text = hosts_toml(node).read_text()
        hosts_toml(node).write_text(text.replace(read_tokens(token_file(node))[0], "0" * 64))
    try:
        await pull(node, reference, with_cri=with_cri)
    finally:
        await doors.renew(node)
    pulled = [one.path for one in doors.lab.registry.requests("GET") if "/blobs/" in one.path]
    assert len(pulled) == len(app.blobs) - 1
    answer = await doors.get(node, manifest_path(reference))
    assert answer.status == 403
    assert b"spegel-py configuration --runtime-token FILE" in answer.body


async def test_new_tokens_fail_no_pull_that_is_under_way(doors: Doors) -> None:
    """The init container runs again in the middle of a pull; the registry is away meanwhile."""
    holder, node = doors.nodes
    reference = doors.lab.name("test/app:under-way")
    app = image("under-way", layers=6, size=1_000_000)
    await publish(doors.lab, reference, app, holder)
    async with registry_away(doors.lab), limited(node, "4mbit"):
        pulling = asyncio.create_task(node.cri.pull(reference))
        while not await _has_any(node, [str(blob.digest) for blob in app.blobs[2:]]):
            assert not pulling.done()
            await asyncio.sleep(0.02)
        await doors.renew(node)
        assert not pulling.done()
        await pulling


async def test_without_the_token_nobody_makes_a_node_ask_others(doors: Doors) -> None:
    """Neither a process of the machine at containerd's port, nor another machine at the peers'."""
    holder, node = doors.nodes
    reference = doors.lab.name("test/app:stranger")
    app = image("stranger", layers=1)
    await publish(doors.lab, reference, app, holder)
    for path in (manifest_path(reference), *map(blob_path, app.blobs)):
        assert (await doors.get(node, path)).status == 403
        elsewhere = await holder.get(path, host=node.address)
        assert elsewhere.status == (401 if doors.has_own_port else 403)
    if doors.has_own_port:
        with pytest.raises(ConnectionRefusedError):
            await holder.get("/v2/", host=node.address, port=doors.port)


async def test_commands_of_the_machine_pass_the_door(doors: Doors, tmp_path: Path) -> None:
    """`measure` asks the node itself; `pull` and `doctor` read the token's file."""
    holder, node = doors.nodes
    reference = doors.lab.name("test/app:commands")
    await publish(doors.lab, reference, image("commands"), holder)
    spegel = (*node.namespace.prefix, sys.executable, "-m", "spegel_py")
    await run(*spegel, "measure", reference)
    mirror = ("--mirror", f"http://127.0.0.1:{doors.port}", "--into", str(tmp_path / "layout"))
    await run(*spegel, "pull", reference, *mirror, "--runtime-token", str(token_file(node)))
    certs = ("--containerd-registry-config-path", str(node.daemon.certs))
    told = json.loads(await run(*spegel, "doctor", "--json", *certs))
    levels = {one["check"]: one["level"] for one in told["findings"]}
    assert levels["runtime_token"] == levels["pull"] == "ok"
    assert levels.get("runtime_addr") == ("ok" if doors.has_own_port else None)


async def pull(node: Node, reference: str, *, with_cri: bool) -> None:
    await (node.cri.pull(reference) if with_cri else node.ctr_pull(reference))


async def _has_any(node: Node, digests: list[str]) -> bool:
    held = await node.daemon.content()
    return any(digest in held for digest in digests)
