"""The jobs of a node: their states, their file, cancellation, and what is recorded of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spegel_py.errors import NotFound, RequestInvalid
from spegel_py.preheat.job_file import FILE
from spegel_py.preheat.preheat_job import (
    KEPT,
    JobImage,
    JobState,
    NodeProgress,
    PreheatJob,
    PreheatStage,
    kept,
)
from spegel_py.preheat.preheat_request import PreheatRequest
from spegel_py.pull.plan import Platform
from tests.support.images import image
from tests.support.processes import until
from tests.unit.preheat.preheated import OWN, Preheated, preheated


@asynccontextmanager
async def running(node: Preheated) -> AsyncIterator[None]:
    task = asyncio.create_task(node.jobs.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def request(node: Preheated, *tags: str, **fields: object) -> PreheatRequest:
    images = [node.name(tag) for tag in tags or ("1",)]
    return PreheatRequest.parse({"images": images, "platform": "linux/amd64", **fields})


async def over(job: PreheatJob) -> PreheatJob:
    async def is_over() -> bool:
        return job.ended is not None

    await until(is_over)
    return job


@pytest.mark.parametrize(
    ("stages", "state"),
    [
        ([PreheatStage.DONE, PreheatStage.HERE], JobState.SUCCEEDED),
        ([PreheatStage.DONE, PreheatStage.FAILED], JobState.PARTIAL),
        ([PreheatStage.REFUSED, PreheatStage.LOST], JobState.FAILED),
        ([PreheatStage.WAITING, PreheatStage.WAITING], JobState.PENDING),
        ([PreheatStage.WAITING, PreheatStage.TAKING], JobState.RUNNING),
    ],
)
def test_the_state_of_a_job_is_that_of_its_nodes(
    stages: list[PreheatStage], state: JobState
) -> None:
    given = PreheatRequest.parse({"images": ["registry.example/app:1"]})
    nodes = {str(number): NodeProgress(stage) for number, stage in enumerate(stages)}
    job = PreheatJob(
        id="a",
        actor="uid 0",
        request=given,
        created=0.0,
        images=[JobImage(given.images[0], nodes=nodes)],
    )
    if all(one.is_over for one in job.all_nodes()):
        job.close(1.0)
    assert job.state is state
    assert PreheatJob.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_the_oldest_jobs_are_forgotten_and_none_that_goes_on() -> None:
    given = PreheatRequest.parse({"images": ["registry.example/app:1"]})
    jobs = [
        PreheatJob(
            id=str(number),
            actor="",
            request=given,
            created=float(number),
            ended=None if number == 0 else 1.0,
            images=[],
        )
        for number in range(KEPT + 10)
    ]
    left = kept(jobs)
    assert len(left) == KEPT + 1
    assert (left[0].id, left[1].id) == ("0", "10")


async def test_a_job_brings_images_and_is_recorded(tmp_path: Path) -> None:
    """The audit says who asked, and how it ended; the metrics count it."""
    one, two = image("one"), image("two")
    async with preheated(one, two, folder=tmp_path) as node, running(node):
        job = await over(await node.jobs.submit(request(node, "1", "2"), actor="uid 7"))
        assert job.state is JobState.SUCCEEDED
        assert {image.digest for image in job.images} == {one.root.digest, two.root.digest}
        shown = node.jobs.describe(job)
        assert shown["nodes"] == {OWN.id: f"{OWN.name} ({OWN.address})"}
        assert node.jobs.counts() == {"succeeded": 1}
        assert node.metrics.get_sample_value("spegel_preheat_nodes_total", {"outcome": "done"}) == 2
        outcomes = [(one["actor"], one["action"], one["outcome"]) for one in node.actions]
        assert outcomes == [("uid 7", "preheat", "begun"), ("uid 7", "preheat", "succeeded")]


async def test_an_image_that_is_unknown_does_not_stop_the_others() -> None:
    one = image()
    async with preheated(one) as node, running(node):
        job = await over(await node.jobs.submit(request(node, "1", "none"), actor="uid 0"))
        assert job.state is JobState.PARTIAL
        assert [image.why for image in job.images] == ["", "not-found"]


async def test_nodes_that_are_not_there_are_refused() -> None:
    async with preheated(image()) as node, running(node):
        with pytest.raises(RequestInvalid, match="there is no node"):
            await node.jobs.submit(request(node, nodes="elsewhere"), actor="uid 0")
        assert node.jobs.all() == []
        with pytest.raises(NotFound, match="no pre-heat job 'x'"):
            node.jobs.get("x")


async def test_a_cancelled_job_leaves_nothing(tmp_path: Path) -> None:
    """Neither while it goes on, nor after it ended."""
    one, two = image("one", size=200_000), image("two")
    async with preheated(one, two, folder=tmp_path) as node, running(node):
        job = await node.jobs.submit(request(node, "1", rate="65536"), actor="uid 0")

        async def has_begun() -> bool:
            node.local.refresh()
            return any(one.done for one in job.all_nodes())

        await until(has_begun)
        await node.jobs.cancel(job.id, actor="uid 0")
        assert job.state is JobState.CANCELLED
        assert [one.stage for one in job.all_nodes()] == [PreheatStage.CANCELLED]
        assert node.is_empty()
        job = await over(await node.jobs.submit(request(node, "2"), actor="uid 0"))
        assert node.replicas.held()
        await node.jobs.cancel(job.id, actor="uid 0")
        assert node.is_empty()


async def test_a_job_that_takes_too_long_expires() -> None:
    one = image(size=2_000_000)
    async with preheated(one) as node, running(node):
        job = await node.jobs.submit(request(node, rate="65536", timeout="1s"), actor="uid 0")
        await over(job)
        assert job.state is JobState.EXPIRED
        [progress] = job.all_nodes()
        assert (progress.stage, progress.why) == (PreheatStage.FAILED, "timeout")
        assert node.is_empty()


async def test_a_job_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The next process reads the file, fetches the rest, and can cancel what the first began."""
    one = image(size=200_000)
    async with preheated(one, folder=tmp_path) as node:
        async with running(node):
            slow = await node.jobs.submit(request(node, rate="65536"), actor="uid 0")

            async def has_begun() -> bool:
                node.local.refresh()
                return any(one.done for one in slow.all_nodes())

            await until(has_begun)
        assert slow.ended is None
        again = Preheated(node.mirror, node.registry, folder=tmp_path, store=node.store)
        async with running(again):

            async def is_done() -> bool:
                jobs = again.jobs.all()
                return bool(jobs) and jobs[0].ended is not None

            await until(is_done, deadline=20.0)
            [job] = again.jobs.all()
            assert (job.id, job.state) == (slow.id, JobState.SUCCEEDED)
            await again.jobs.cancel(job.id, actor="uid 0")
            assert again.is_empty()


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"id": "a"}]', "[" * 100_000])
async def test_a_file_that_cannot_be_read_is_no_end(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    async with preheated(image(), folder=tmp_path) as node, running(node):
        job = await node.jobs.submit(request(node), actor="uid 0")
        assert (await over(job)).state is JobState.SUCCEEDED


async def test_each_node_s_own_platform_is_the_default() -> None:
    one = image(platforms=(Platform.here().architecture,))
    async with preheated(one) as node, running(node):
        given = PreheatRequest.parse({"images": [node.name()]})
        assert (await over(await node.jobs.submit(given, actor="uid 0"))).state is (
            JobState.SUCCEEDED
        )
