"""What others than a node's own containerd can do, by the switches that are on: the table of
docs/reference/security.md, tried on a real cluster.

The stranger is another machine on the nodes' network, without a secret. It runs an unchanged node
that offers an image of its own under the cluster's names. The program is on the node's machine, and
can read no file of root.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest
import pytest_asyncio

import spegel_py
from spegel_py.oci.build import Image
from spegel_py.oci.distribution import RUNTIME_HEADER
from tests.integration.cluster import blob_path, heal, manifest_path, metric, publish, state
from tests.support.certificates import Authority
from tests.support.images import image, write_layout
from tests.support.lab import REGISTRY, Lab, Node, Response, fetch, start_lab
from tests.support.namespaces import Namespace
from tests.support.processes import Process, until

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

STRANGER = "10.99.1.66"


class Switches(StrEnum):
    """The settings of all nodes."""

    DEFAULTS = "defaults"
    KEYS = "keys"
    ALL = "all"


TABLE: Mapping[str, tuple[bool, bool, bool]] = {
    # act: by default, with cluster keys, with all switches
    "the stranger is a peer": (True, False, False),
    "the stranger says what a tag means": (True, False, False),
    "the stranger reads what a node has": (True, True, False),
    "the stranger lets a node ask its peers": (True, True, False),
    "the stranger reads the names of images at the metrics port": (True, True, True),
    "a program reads what its node has": (True, True, False),
    "a program lets its node ask its peers": (True, True, False),
    "containerd gets content from a peer": (True, True, True),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes, and a stranger whose node has tried to join them."""

    lab: Lab
    switches: Switches
    token: str
    app: Image
    reference: str
    forged: Image
    forged_reference: str

    @property
    def stranger(self) -> Namespace:
        return self.lab.guests["stranger"]

    @property
    def runtime_port(self) -> int:
        return 5002 if self.switches is Switches.ALL else 5000

    async def as_stranger(self, node: Node, path: str, *, is_peer: bool = False) -> bool:
        headers = {"X-Spegel-Mirrored": "true"} if is_peer else {}
        return await _gets(fetch(self.stranger, node.address, 5000, path, "GET", headers, 10.0))

    async def on_machine(self, node: Node, path: str, headers: Mapping[str, str]) -> bool:
        port = self.runtime_port
        return await _gets(node.get(path, host="127.0.0.1", port=port, headers=dict(headers)))

    async def as_containerd(self, node: Node, path: str) -> bool:
        return await self.on_machine(node, path, {RUNTIME_HEADER: self.token} if self.token else {})


async def _gets(asking: Awaitable[Response]) -> bool:
    """Return True if a request is answered with content."""
    try:
        return (await asking).status == 200
    except (OSError, EOFError):  # it is hung up on
        return False


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=list(Switches))
async def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cluster]:
    switches: Switches = request.param
    folder = tmp_path_factory.mktemp(switches)
    token = secrets.token_hex(32) if switches is Switches.ALL else ""
    app, forged = image("threats", layers=2), image("forged")
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(start_lab(nodes=2, guests={"stranger": STRANGER}))
        await heal(lab, **_flags(switches, folder, token))
        reference, forged_reference = lab.name("test/app:1"), lab.name("test/app:forged")
        await publish(lab, reference, app, lab.nodes[0])
        stranger = _node_of_stranger(lab, folder, forged, forged_reference)
        stack.push_async_callback(stranger.end)

        await stranger.start(lambda: _has_tried(lab.nodes[1]), deadline=30.0)
        yield Cluster(lab, switches, token, app, reference, forged, forged_reference)


async def _has_tried(node: Node) -> bool:
    """Return True if the stranger is a peer of a node, or was refused."""
    return (
        await _is_peer(node)
        or await metric(node, "spegel_announce_frames_dropped_total", reason="no-cluster-key") > 0
    )


async def _is_peer(node: Node) -> bool:
    return any(STRANGER in str(peer) for peer in (await state(node))["peers"])


def _flags(switches: Switches, folder: Path, token: str) -> dict[str, str | None]:
    if switches is Switches.DEFAULTS:
        return {}
    keys = _secret(folder / "keys", secrets.token_hex(32))
    if switches is Switches.KEYS:
        return {"cluster_keys": keys}
    return {
        "cluster_keys": keys,
        "peer_proofs": "require",
        "peer_tls": str(Authority().write(folder / "certificates")),
        "runtime_token": _secret(folder / "token", token),
        "runtime_addr": "127.0.0.1:5002",
        "private_images": "guard",
        "mirrored_registries": f"http://{REGISTRY}",
    }


def _secret(file: Path, text: str) -> str:
    file.touch(mode=0o600)
    file.write_text(text + "\n")
    return str(file)


def _node_of_stranger(lab: Lab, folder: Path, forged: Image, reference: str) -> Process:
    """Return a node as it is installed, not started, with another image below the same name."""
    write_layout(folder / "layout", {reference: forged})
    targets = ",".join(f"/ip4/{node.address}/tcp/5001" for node in lab.nodes)
    return Process(
        command=[
            *lab.guests["stranger"].prefix,
            *(sys.executable, "-m", "spegel_py", "registry", "--log-level=DEBUG"),
            *("--oci-layout", str(folder / "layout"), "--static-bootstrap-peers", targets),
            *("--registry-addr=:5000", "--router-addr=:5001", "--metrics-addr=:9090"),
            *("--bootstrap-kind=static", "--data-dir", str(folder / "data")),
        ],
        log=folder / "stranger.log",
        environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
    )


async def test_who_can_do_what(cluster: Cluster) -> None:
    holder, asking = cluster.lab.nodes
    manifest, layer = manifest_path(cluster.reference), blob_path(cluster.app.blobs[-1])
    forged = manifest_path(cluster.forged_reference)
    names = fetch(cluster.stranger, asking.address, 9090, "/debug/images", "GET", {}, 10.0)
    if cluster.switches is Switches.DEFAULTS:
        await until(lambda: cluster.as_containerd(asking, forged), deadline=30.0)
    found = {
        "the stranger is a peer": await _is_peer(asking),
        "the stranger says what a tag means": await cluster.as_containerd(asking, forged),
        "the stranger reads what a node has": await cluster.as_stranger(
            holder, layer, is_peer=True
        ),
        "the stranger lets a node ask its peers": await cluster.as_stranger(asking, layer),
        "the stranger reads the names of images at the metrics port": await _gets(names),
        "a program reads what its node has": await cluster.on_machine(holder, layer, {}),
        "a program lets its node ask its peers": await cluster.on_machine(asking, layer, {}),
        "containerd gets content from a peer": await cluster.as_containerd(asking, manifest),
    }
    column = list(Switches).index(cluster.switches)
    assert found == {act: allowed[column] for act, allowed in TABLE.items()}
