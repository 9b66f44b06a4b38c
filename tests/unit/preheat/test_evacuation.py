"""A node that gives its only copies away while it drains, and before it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from spegel_py.errors import RequestInvalid
from spegel_py.oci.build import Image
from spegel_py.preheat.evacuation import Evacuation
from spegel_py.preheat.other_nodes import OtherNodes
from spegel_py.preheat.preheat_job import JobState, PreheatStage
from spegel_py.pull.plan import Platform
from spegel_py.replicas.drain_state import DrainCause
from spegel_py.routing.base import Peer
from tests.support.images import image
from tests.support.processes import until
from tests.unit.preheat.preheated import Preheated, preheated
from tests.unit.preheat.test_other_nodes import Requests, responding

NAME = "registry.example/team/alone:1"


@asynccontextmanager
async def pair(
    one: Image, folder: Path | None = None
) -> AsyncIterator[tuple[Preheated, Preheated]]:
    """Run a node with an image that the other one can take from it."""
    async with (
        preheated(folder=folder) as here,
        preheated() as there,
        responding(there) as responder,
    ):
        for blob in one.blobs:
            here.store.add(blob.data)
        here.store.tag(NAME, one.root.digest, pulled=5.0)
        there.mirror.add(one)
        here.jobs._others = OtherNodes(requests=Requests({"other": responder.handle}))
        tasks = [asyncio.create_task(each.run()) for each in (here.jobs, here.evacuation)]
        amd64 = Platform.of("linux", "amd64")
        with (
            patch("spegel_py.preheat.evacuation.TICK", 0.02),
            patch("spegel_py.preheat.preheat_jobs.Platform.here", return_value=amd64),
        ):
            await asyncio.sleep(0)
            yield here, there
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_node_that_drains_gives_its_only_copies_away() -> None:
    """It does so for any cause, once, and tells the audit who let it."""
    one = image()
    async with pair(one) as (here, there):
        await here.draining.begin(DrainCause.SICK, "2 nodes predict that it fails")

        async def is_there() -> bool:
            return one.root.digest in there.replicas.held()

        await until(is_there, deadline=10.0)
        [job] = here.jobs.all()
        assert (job.actor, job.request.keep) == ("spegel-py", 3600.0)
        [replica] = there.replicas.held().values()
        assert set(replica.names) == {NAME}


async def test_a_command_lets_the_node_drain_until_it_is_undone(tmp_path: Path) -> None:
    one = image()
    async with pair(one, tmp_path) as (here, there):
        job = await here.evacuation.begin({"timeout": "20s"}, actor="uid 0")
        assert here.evacuation.describe() == {"command": "by uid 0"}
        assert await here.jobs.evacuated(10.0)
        assert job.state is JobState.SUCCEEDED
        assert set(there.replicas.held()) == {one.root.digest}
        await here.evacuation.undo(actor="uid 0")
        assert here.evacuation.describe() is None
        actions = [str(action["action"]) for action in here.actions]
        assert sorted(actions) == ["drain", "evacuate", "evacuate", "undrain"]


async def test_a_peer_that_drains_has_no_copy_and_takes_none() -> None:
    """The peer with the same image is about to go too: the image still goes to the third node."""
    one = image()
    async with pair(one) as (here, there):
        leaving = here.network.join(Peer("leaving", "10.0.0.3", 5000))
        await leaving.advertise([str(one.root.digest)])
        with pytest.raises(RequestInvalid, match="other nodes have all"):
            await here.jobs.evacuate({}, actor="a", is_forced=False)
        here.drain.draining_peers = frozenset({"leaving"})
        await here.jobs.evacuate({}, actor="a", is_forced=False)
        assert await here.jobs.evacuated(10.0)
        assert set(there.replicas.held()) == {one.root.digest}
        here.drain.draining_peers = frozenset({"leaving", "other"})
        with pytest.raises(RequestInvalid, match="no other node"):
            await here.jobs.evacuate({}, actor="a")


async def test_a_node_gives_its_only_copies_away_before_it_stops() -> None:
    one = image()
    async with pair(one) as (here, there):
        await here.evacuation.stop()
        assert set(there.replicas.held()) == {one.root.digest}
        assert here.evacuation.describe() == {"stop": "it stops"}
    async with pair(one) as (here, there):
        off = Evacuation(jobs=here.jobs, draining=here.draining, keep=None, is_at_stop=False)
        await off.stop()
        assert not there.replicas.held()
        assert off.describe() is None


async def test_a_stop_does_not_wait_for_long() -> None:
    """The other node does not get the image: the process ends when the time is over."""
    one = image()
    async with pair(one) as (here, there):
        there.mirror.content.clear()
        with patch("spegel_py.preheat.evacuation.STOP_WITHIN", 1.0):
            await asyncio.wait_for(here.evacuation.stop(), 5.0)
        assert not there.replicas.held()


async def test_a_node_that_drains_fetches_nothing_for_others() -> None:
    one = image()
    async with pair(one) as (here, there):
        there.drain.causes = {DrainCause.COMMAND: "by uid 0"}
        job = await here.jobs.evacuate({"timeout": "5s"}, actor="a")
        assert await here.jobs.evacuated(10.0)
        assert job.state is JobState.FAILED
        [progress] = job.images[0].nodes.values()
        assert (progress.stage, progress.why) == (PreheatStage.REFUSED, "draining")
        assert not there.replicas.held()
