"""Private images with real containerds, and real registries that want a password or a token."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from spegel_py.oci.build import Image
from spegel_py.registry.private_rules import AWAY_FOR
from tests.integration.cluster import everybody, found_at, joined, metric
from tests.support.images import image
from tests.support.lab import Lab, Node, Registry, start_lab
from tests.support.namespaces import Namespace
from tests.support.processes import Process, run, until
from tests.support.token_server import make_key

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

PRIVATE = "10.99.1.251:5000"
TOKENS = "10.99.1.251:5001"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Two guarded nodes, and a registry with one user."""

    lab: Lab
    registry: Registry
    tokens: Process | None

    @property
    def nodes(self) -> tuple[Node, Node]:
        """The node that holds images, and the node that pulls them."""
        holder, puller = self.lab.nodes
        return holder, puller

    def name(self, repository_and_tag: str) -> str:
        return f"{PRIVATE}/{repository_and_tag}"

    async def pull(self, node: Node, reference: str, *, password: str | None = None) -> None:
        """Pull as the kubelet does for a Pod with the secret, or with another password."""
        given = self.registry.password if password is None else password
        await node.cri.pull(reference, user=self.registry.user, password=given)

    async def publish(self, reference: str, made: Image) -> None:
        """Push an image, and pull it on the node that holds images."""
        holder, puller = self.nodes
        await self.registry.push(reference, made)
        await self.pull(holder, reference)
        keys = [reference, *(str(blob.digest) for blob in made.blobs[1:])]
        await found_at(puller, keys, holder)
        self.registry.forget()

    async def start(self, node: Node, **flags: str | None) -> None:
        """Start the node, or start it again: it forgets all but its files."""
        token = str(node.folder / "data" / "runtime-token")
        if node.spegel:
            await node.spegel.end()
        else:
            await self.configure(node, token)
        settings: dict[str, str | None] = {
            "static_bootstrap_peers": everybody(self.lab),
            "mirrored_registries": f"http://{PRIVATE}",
            "node_name": node.address,
            "runtime_token": token,
            "private_images": "guard",
            "containerd_registry_config_path": str(node.daemon.certs),
            "peer_proofs": "require",
        }
        await node.start_spegel(**settings | flags)

    async def configure(self, node: Node, token: str) -> None:
        """Let `spegel-py configuration` write hosts.toml and the token."""
        await run(
            *(sys.executable, "-m", "spegel_py", "configuration", "--node-name", node.address),
            *("--containerd-registry-config-path", str(node.daemon.certs)),
            *("--mirror-targets", "http://127.0.0.1:5000", "--runtime-token", token),
            *("--mirrored-registries", f"http://{PRIVATE}"),
        )

    async def stop(self) -> None:
        """Stop the registry, and its token server."""
        await self.registry.stop()
        if self.tokens:
            await self.tokens.end()

    async def go_on(self) -> None:
        """Start both again."""
        if self.tokens:
            await self.tokens.start(lambda: _listens(self.registry.namespace))
        await self.registry.start()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["password", "token"])
async def secrets(request: pytest.FixtureRequest) -> AsyncIterator[Secrets]:
    async with AsyncExitStack() as stack:
        guests = {"private": PRIVATE.partition(":")[0]}
        lab = await stack.enter_async_context(start_lab(nodes=2, guests=guests))
        folder, machine = lab.registry.folder.parent / "private", lab.guests["private"]
        is_token, realm, server = request.param == "token", "", None
        if is_token:
            folder.mkdir()
            make_key(folder)
            realm = f"http://{TOKENS}/token"
        registry = Registry(
            folder=folder, namespace=machine, address=PRIVATE, is_private=True, realm=realm
        )
        if is_token:
            user = f"{registry.user}:{registry.password}"
            module = (sys.executable, "-m", "tests.support.token_server")
            server = Process(
                command=[*machine.prefix, *module, str(folder), TOKENS, user, "300"],
                log=folder / "tokens.log",
                environment={"PYTHONPATH": str(Path(__file__).parents[2])},
            )
        made = Secrets(lab, registry, server)
        stack.push_async_callback(made.stop)
        await made.go_on()
        await asyncio.gather(*(made.start(node) for node in lab.nodes))
        await joined(*lab.nodes)
        yield made


@pytest.mark.containerd
@pytest.mark.parametrize("with_cri", [True, False], ids=["CRI", "ctr"])
async def test_a_pull_with_the_secret_comes_from_peers_and_costs_one_head(
    secrets: Secrets, with_cri: bool
) -> None:
    """The registry sends no content, and is asked for its challenge at most once. A second token
    costs a second HEAD."""
    _, node = secrets.nodes
    repository, made = "team/cri" if with_cri else "team/ctr", image(f"one {with_cri}")
    reference = secrets.name(f"{repository}:1")
    await secrets.publish(reference, made)
    if with_cri:
        await secrets.pull(node, reference)
    else:
        user = f"{secrets.registry.user}:{secrets.registry.password}"
        await node.ctr_pull(reference, "--user", user)
    asked = [(one.method, one.path) for one in secrets.registry.requests()]
    assert asked.count(("HEAD", f"/v2/{repository}/manifests/1")) == 1
    assert [one for one in asked if one[0] != "HEAD" and one[1] != "/v2/"] == []
    assert len(asked) <= (3 if secrets.tokens else 2)  # containerd gets two tokens for a pull
    held = await node.daemon.content()
    assert {str(blob.digest) for blob in made.blobs} <= set(held)
    assert await metric(node, "spegel_private_verdicts_total", outcome="allowed") >= 1


@pytest.mark.containerd
@pytest.mark.parametrize("by_digest", [False, True], ids=["tag", "digest"])
@pytest.mark.parametrize("password", ["", "wrong"], ids=["no secret", "wrong password"])
async def test_a_pull_without_the_secret_gets_nothing(
    secrets: Secrets, password: str, by_digest: bool
) -> None:
    """The registry itself refuses it, and not one byte of the image is here."""
    _, node = secrets.nodes
    made = image(f"{password} {by_digest}")
    tagged = secrets.name(f"team/app:{password or 'none'}-{by_digest}".lower())
    await secrets.publish(tagged, made)
    reference = f"{PRIVATE}/team/app@{made.root.digest}" if by_digest else tagged
    user = secrets.registry.user if password else ""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await node.cri.pull(reference, user=user, password=password)
    details = raised.value.details() or ""
    assert any(word in details for word in ("401", "403", "uthoriz", "no basic auth")), details
    held = await node.daemon.content()
    assert not {str(blob.digest) for blob in made.blobs} & set(held)
    assert secrets.registry.requests("HEAD")
    await secrets.pull(node, reference)


async def test_two_nodes_at_once_fetch_one_copy(secrets: Secrets) -> None:
    """Content in flight has its origin too: the manifest above it tells it."""
    made = image("at once", layers=3, size=2_000_000)
    reference = secrets.name("team/at-once:1")
    await secrets.registry.push(reference, made)
    async with secrets.registry.namespace.throttled("50mbit", burst="64kbit"):
        await asyncio.gather(*(secrets.pull(node, reference) for node in secrets.nodes))
    sent = [one.path for one in secrets.registry.requests("GET") if one.status == 200]
    for blob in made.blobs[2:]:
        assert sent.count(f"/v2/team/at-once/blobs/{blob.digest}") == 1


async def test_content_is_given_under_no_other_name(secrets: Secrets) -> None:
    """The user may pull both repositories, and the content is in one: this node's registry said no,
    though a peer has it."""
    holder, node = secrets.nodes
    made, other = image("other name"), image("evil")
    await secrets.publish(secrets.name("team/secret:1"), made)
    await secrets.publish(secrets.name("team/evil:1"), other)
    await secrets.pull(node, secrets.name("team/evil:1"))
    with pytest.raises(grpc.aio.AioRpcError):
        await secrets.pull(node, f"{PRIVATE}/team/evil@{made.root.digest}")
    if secrets.tokens is None:
        assert await _as_runtime(secrets, holder, "team/evil/manifests/1") == 200
        for blob in made.blobs[1:]:
            path = f"blobs/{blob.digest}"
            assert await _as_runtime(secrets, holder, f"team/evil/{path}") == 404
            assert await _as_runtime(secrets, node, f"team/evil/{path}") == 404
    assert not {str(blob.digest) for blob in made.blobs} & set(await node.daemon.content())


async def test_no_file_and_no_answer_holds_the_credentials(secrets: Secrets) -> None:
    """Logs at DEBUG, records, the data folder: after pulls with the right and a wrong password."""
    holder, node = secrets.nodes
    reference = secrets.name("team/app:traces")
    await secrets.publish(reference, image("traces"))
    with pytest.raises(grpc.aio.AioRpcError):
        await secrets.pull(node, reference, password="wr0ngpassword")
    await secrets.pull(node, reference)
    pair = f"{secrets.registry.user}:{secrets.registry.password}"
    marks = [secrets.registry.password, base64.b64encode(pair.encode()).decode()]
    marks += ["wr0ngpassword", "eyJ"]  # a token begins so
    for each in (holder, node):
        pages = ("/debug/decisions?limit=1000", "/debug/pulls?limit=100", "/debug/state")
        seen = [(await each.get(page, port=9090)).body for page in (*pages, "/metrics")]
        seen += [one.read_bytes() for one in (each.folder / "data").rglob("*") if one.is_file()]
        seen.append((each.folder / "spegel.log").read_bytes())
        for mark in marks:
            assert not any(mark.encode() in data for data in seen), mark
    answer = await node.get(f"/debug/decisions?limit=100&key={reference}", port=9090)
    reasons = {one["reason"] for one in json.loads(answer.body)["decisions"]}
    assert {"challenged", None} <= reasons
    refused = (await node.get("/debug/decisions?limit=100", port=9090)).body
    assert secrets.tokens or b"refuses" in refused


async def test_while_the_registry_is_away_a_verdict_of_before_counts(secrets: Secrets) -> None:
    """With a password it outlives a restart of the node. A token ends, and its server is away.
    It is the last test, and leaves the node as it is."""
    _, node = secrets.nodes
    reference, made = secrets.name("team/app:away"), image("away", layers=2)
    await secrets.publish(reference, made)
    await secrets.pull(node, reference)
    await until(lambda: _is_kept(node), deadline=5.0)
    await node.cri.remove(reference)
    await until(lambda: _is_gone(node, made), deadline=20.0)
    await secrets.stop()
    try:
        await secrets.start(node)
        await joined(*secrets.nodes)
        with pytest.raises(grpc.aio.AioRpcError):
            await secrets.pull(node, reference, password="wrong")
        if secrets.tokens is None:
            await secrets.pull(node, reference)
            await secrets.start(node, private_when_down="deny")
            await joined(*secrets.nodes)
            assert await _as_runtime(secrets, node, "team/app/manifests/away") == 404
        else:
            with pytest.raises(grpc.aio.AioRpcError):
                await secrets.pull(node, reference)
            await secrets.start(node, private_when_down="allow")
            await joined(*secrets.nodes)
            # The registry's challenge of less than AWAY_FOR seconds ago still counts at first.
            await until(lambda: _pulls(node, reference), deadline=AWAY_FOR + 10.0)
    finally:
        await secrets.go_on()


async def _pulls(node: Node, reference: str) -> bool:
    """Return True if a runtime without credentials gets an image."""
    try:
        await node.cri.pull(reference)
    except grpc.aio.AioRpcError:
        return False
    return True


async def _as_runtime(secrets: Secrets, node: Node, path: str) -> int:
    """Return the status of an answer to the runtime, with the password, of the registry's own."""
    token = (node.folder / "data" / "runtime-token").read_text().split()[0]
    pair = f"{secrets.registry.user}:{secrets.registry.password}"
    headers = {
        "X-Spegel-Runtime": token,
        "Authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
    }
    url = f"/v2/{path}?ns={PRIVATE}"
    return (await node.get(url, host="127.0.0.1", headers=headers)).status


async def _is_kept(node: Node) -> bool:
    """Return True once the verdict is on the disk."""
    path = node.folder / "data" / "private-images.json"
    return path.exists() and bool(json.loads(path.read_text())["allowed"])


async def _is_gone(node: Node, made: Image) -> bool:
    return str(made.blobs[-1].digest) not in await node.daemon.content()


async def _listens(machine: Namespace) -> bool:
    host, _, port = TOKENS.rpartition(":")
    try:
        (await machine.connect(host, int(port), timeout=2.0)).close()
    except OSError:
        return False
    return True
