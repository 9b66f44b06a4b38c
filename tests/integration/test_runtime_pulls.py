"""Pulls by a real CRI at this program's request, pins, and the reasons of failures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_fault import PreheatFailed
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.runtime_pulls import RuntimePulls
from spegel_py.pull.plan import Platform
from spegel_py.store.containerd import Client, CriImages
from spegel_py.tools.basic_auth import Credentials
from tests.support.containerd import running_daemon
from tests.support.images import image
from tests.support.lab import Lab, Registry, start_lab
from tests.support.processes import until

pytestmark = [pytest.mark.root, pytest.mark.containerd]

PRIVATE = "10.99.1.251:5000"
NOW = 1_900_000_000.0


class Runtime:
    """The runtime's pulls of one node, at a settable time."""

    def __init__(self, client: Client) -> None:
        self.now = NOW
        self.images = CriImages(client=client)
        self.pulls = RuntimePulls(self.images, clock=lambda: self.now)

    async def pull(
        self,
        name: str,
        digest: Digest,
        *,
        platform: Platform | None = None,
        credentials: Credentials | None = None,
        pin_until: float | None = None,
    ) -> NodeProgress:
        """Pull an image to its end; return the progress, as a node would."""
        progress = NodeProgress()
        try:
            await self.pulls.pull(
                Reference.parse(name),
                digest,
                progress,
                platform=platform,
                credentials=credentials,
                pin_until=pin_until,
            )
        except PreheatFailed as error:
            progress.end(PreheatStage.FAILED, why=error.fault.value, error=str(error))
        return progress


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with start_lab(nodes=1, guests={"private": PRIVATE.partition(":")[0]}) as made:
        yield made


@pytest.fixture
async def runtime(lab: Lab) -> AsyncIterator[Runtime]:
    async with Client(socket=lab.nodes[0].daemon.socket) as client:
        yield Runtime(client)


async def test_a_pin_counts_until_its_end(lab: Lab, runtime: Runtime) -> None:
    """A new process knows it. Versions before 1.7 have none, and nothing is pulled there."""
    [node] = lab.nodes
    one, name = image(), lab.name("test/pinned:1")
    digest = one.root.digest
    await lab.registry.push(name, one)
    pinned = await runtime.pull(name, digest, pin_until=NOW + 60)
    if await node.daemon.version() < (1, 7):
        assert pinned.why == "no-pin"
        assert await node.cri.images() == []
        return

    async def shows(expected: bool) -> None:
        async def is_shown() -> bool:
            found = await runtime.images.find(name)
            return found is not None and found.is_pinned is expected

        await until(is_shown)

    assert pinned.stage is PreheatStage.DONE
    assert pinned.done == pinned.total > 0
    await shows(True)
    runtime.pulls = RuntimePulls(runtime.images, clock=lambda: runtime.now)
    await runtime.pulls.unpin_expired()
    assert runtime.pulls.pinned_until(digest) == NOW + 60
    again = await runtime.pull(name, digest, pin_until=NOW + 30)
    assert again.stage is PreheatStage.HERE
    assert runtime.pulls.pinned_until(digest) == NOW + 60
    runtime.now = NOW + 61
    await runtime.pulls.unpin_expired()
    await shows(False)
    await runtime.pull(name, digest, pin_until=NOW + 200)
    await shows(True)
    await runtime.pulls.unpin(digest)
    await shows(False)
    assert await runtime.images.pins() == {}


async def test_each_failure_has_its_reason(lab: Lab, runtime: Runtime) -> None:
    """The CRI gives it as text alone."""
    private = Registry(
        folder=lab.registry.folder.parent / "private",
        namespace=lab.guests["private"],
        address=PRIVATE,
        is_private=True,
    )
    await private.start()
    try:
        [node] = lab.nodes
        node.write_hosts_toml(mirror=None, registry=PRIVATE)
        one, other = image(), image("other")
        name, secret = lab.name("test/app:1"), f"{PRIVATE}/test/app:1"
        digest = one.root.digest
        await lab.registry.push(name, one)
        await private.push(secret, one)
        good = Credentials(username=private.user, password=private.password)
        bad = Credentials(username=private.user, password="wrong")
        assert (await runtime.pull(secret, digest)).why == "no-credentials"
        assert (await runtime.pull(secret, digest, credentials=bad)).why == "no-credentials"
        assert (await runtime.pull(lab.name("test/none:1"), digest)).why == "not-found"
        assert (await runtime.pull(name, other.root.digest)).why == "tag-moved"
        foreign = Platform.of("linux", "s390x")
        assert (await runtime.pull(name, digest, platform=foreign)).why == "no-platform"
        away = await runtime.pull("10.99.1.250:1/test/app:1", digest)
        assert away.why == "unreachable"
        found = await runtime.pull(secret, digest, credentials=good)
        assert found.stage is PreheatStage.DONE, found.error
        by_digest = f"{PRIVATE}/test/app@{digest}"
        assert (await runtime.pull(by_digest, digest)).stage is PreheatStage.HERE
    finally:
        await private.stop()


async def test_without_the_cri_the_reason_says_so() -> None:
    async with running_daemon() as daemon, Client(socket=daemon.socket) as client:
        progress = await Runtime(client).pull("registry.example/app:1", Digest.of(b"a"))
        assert progress.why == "no-cri"
        assert "plugin is disabled" in progress.error
