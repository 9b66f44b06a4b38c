"""Nodes that ask each other for images, over messages that are carried in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from spegel_py.errors import PeerUnreachable, RequestInvalid
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat import other_nodes, preheat_jobs
from spegel_py.preheat.local_preheat import ImageOrder
from spegel_py.preheat.other_nodes import OtherNodes
from spegel_py.preheat.preheat_job import JobState, NodeProgress, PreheatStage
from spegel_py.preheat.preheat_messages import (
    ListedTag,
    PreheatAnswer,
    PreheatAsk,
    PreheatLook,
    PreheatResolve,
    decode_ask,
    encode_ask,
    encode_state,
    is_preheat,
)
from spegel_py.preheat.preheat_request import PreheatRequest
from spegel_py.preheat.preheat_responder import MAX_PENDING_PER_PEER, PreheatResponder
from spegel_py.pull.plan import Platform
from spegel_py.routing.base import Peer, RequestHandler
from tests.support.images import image
from tests.support.processes import until
from tests.unit.preheat.preheated import Preheated, preheated

ASK = PreheatAsk(
    job="abc",
    image=Reference.parse("registry.example/team/app:1"),
    digest=Digest.of(b"image"),
    seen=12.0,
    platform=Platform.of("linux", "arm64"),
    keep=3600.0,
    within=60.0,
    rate=1000,
    credentials="team",
)


class Requests:
    """The RequestResponse port with the handlers of other nodes."""

    def __init__(self, handlers: Mapping[str, RequestHandler]) -> None:
        self.handlers = dict(handlers)
        self.changed = asyncio.Event()
        self.id = "asker"

    def partners(self) -> Mapping[str, Peer]:
        return {node: Peer(node, f"10.0.0.{at}", 5000) for at, node in enumerate(self.handlers, 2)}

    def set_handler(self, handler: RequestHandler) -> None:
        self.handlers[self.id] = handler

    async def request(self, peer_id: str, message: bytes, *, timeout: float) -> bytes:
        if peer_id not in self.handlers:
            raise PeerUnreachable(f"{peer_id} is not connected")
        return await asyncio.to_thread(self.handlers[peer_id], "asker", message)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_nodes, "LOOK", 0.02)
    monkeypatch.setattr(other_nodes, "LOST", 0.2)
    monkeypatch.setattr("spegel_py.pull.resume.PAUSE_FIRST", 0.001)


@asynccontextmanager
async def responding(node: Preheated, *, is_open: bool = True) -> AsyncIterator[PreheatResponder]:
    responder = PreheatResponder(
        local=node.local, metrics=node.counted, is_open=is_open, drain=node.drain
    )
    task = asyncio.create_task(responder.run())
    await asyncio.sleep(0)
    try:
        yield responder
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_messages_are_read_as_they_were_written() -> None:
    for message in (
        ASK,
        PreheatLook("abc", ASK.digest),
        PreheatLook("a", ASK.digest, is_drop=True),
    ):
        assert is_preheat(encode_ask(message))
        assert decode_ask(encode_ask(message)) == message
    progress = NodeProgress(PreheatStage.FAILED, done=1, total=2, why="no-room", error="full\x1b")
    read = PreheatAnswer.decode(encode_state(progress)).progress
    assert read is not None
    assert (read.stage, read.done, read.total, read.error) == (PreheatStage.FAILED, 1, 2, "full?")
    assert PreheatAnswer.decode(encode_state(None)).progress is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'{"kind": "preheat"}',
        b'{"kind": "look", "job": "a"}',
        b'{"kind": "look", "job": "", "digest": "sha256:%s"}' % (b"0" * 64),
        b'{"kind": "keep", "job": "a", "digest": "sha256:%s"}' % (b"0" * 64),
        encode_ask(ASK).replace(b"registry.example/team/app:1", b"app"),
        encode_ask(ASK).replace(b"linux/arm64", b"arm64"),
        encode_ask(ASK).replace(b"3600.0", b"-1"),
        encode_ask(ASK).replace(b"3600.0", b"1e400"),
        b" " * 2000,
    ],
    ids=range(11),
)
def test_malformed_requests_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError):
        decode_ask(raw)


def test_a_request_that_does_not_fit_is_refused_here() -> None:
    long = Reference.parse(f"registry.example/{'a/' * 110}app:{'t' * 120}")
    ask = PreheatAsk(
        job="a" * 40,
        image=long,
        digest=Digest.of(b"image", "sha512"),
        seen=None,
        platform=None,
        keep=1.0,
        within=1.0,
        credentials="c" * 400,
    )
    with pytest.raises(MessageError, match="more than 1024"):
        encode_ask(ask)


async def test_a_job_brings_an_image_to_two_nodes() -> None:
    """The node that is asked takes the digest for both. Cancelling drops it on both."""
    one = image()
    async with preheated(one) as here, preheated() as there, responding(there) as responder:
        requests = Requests({"other": responder.handle})
        here.jobs._others = OtherNodes(requests=requests)
        task = asyncio.create_task(here.jobs.run())
        there.mirror.add(one)
        name = f"registry.example/team/app:1@{one.root.digest}"
        request = PreheatRequest.parse(
            {"images": [name], "nodes": "other", "platform": "linux/amd64"}
        )
        job = await here.jobs.submit(request, actor="uid 0")

        async def is_over() -> bool:
            return job.ended is not None

        await until(is_over)
        assert job.state is JobState.SUCCEEDED
        assert there.replicas.held()
        assert not here.replicas.held()
        await here.jobs.cancel(job.id, actor="uid 0")

        async def is_dropped() -> bool:
            return there.is_empty()

        await until(is_dropped)
        task.cancel()
        await asyncio.wait([task])


async def _answer(url: str, *_: object, **__: object) -> str:
    return url


async def test_a_node_that_cannot_ask_the_registry_gets_the_image_from_one_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has it at first, and only this node reaches the registry."""
    monkeypatch.setattr(preheat_jobs, "PEER_PAUSES", (0.5, 0.5))
    one = image()
    async with preheated() as here, preheated() as there, responding(there) as responder:
        here.jobs._others = OtherNodes(requests=Requests({"other": responder.handle}))
        here.mirror.add(one)
        task = asyncio.create_task(here.jobs.run())
        name = f"registry.example/team/app:1@{one.root.digest}"
        request = PreheatRequest.parse(
            {"images": [name], "nodes": "all", "platform": "linux/amd64"}
        )
        monkeypatch.setattr(there.lookup, "url", partial(_answer, there.registry.url))
        job = await here.jobs.submit(request, actor="uid 0")

        async def has_failed() -> bool:
            return any(one.why == "not-found" for one in job.all_nodes())

        await until(has_failed)
        there.mirror.add(one)

        async def is_over() -> bool:
            return job.ended is not None

        await until(is_over)
        task.cancel()
        await asyncio.wait([task])
        assert job.state is JobState.SUCCEEDED


async def test_what_only_this_node_has_is_brought_to_another() -> None:
    """An image of the runtime and a replica, not what a peer has too; after a refusal the next."""
    alone, kept, shared = image("alone"), image("kept"), image("shared")
    async with (
        preheated() as here,
        preheated(room=10) as full,
        preheated() as there,
        responding(full) as refusing,
        responding(there) as responder,
    ):
        here.mirror.add(kept)
        for one in (alone, shared):
            for blob in one.blobs:
                here.store.add(blob.data)
        here.store.tag("registry.example/team/alone:1", alone.root.digest, pulled=5.0)
        here.store.tag("registry.example/team/shared:1", shared.root.digest, pulled=5.0)
        await here.take(
            ImageOrder(
                image=Reference.parse("registry.example/team/kept:1"),
                digest=kept.root.digest,
                seen=7.0,
                platform=Platform.of("linux", "amd64"),
                expires=2e9,
            )
        )
        peer = here.network.join(Peer("other", "10.0.0.2", 5000))
        await peer.advertise([str(shared.root.digest)])
        for one in (alone, kept):
            there.mirror.add(one)
            full.mirror.add(one)
        requests = Requests({"full": refusing.handle, "other": responder.handle})
        here.jobs._others = OtherNodes(requests=requests)
        task = asyncio.create_task(here.jobs.run())
        job = await here.jobs.evacuate({"timeout": "20s"}, actor="uid 0")
        job.request = replace(job.request, platform=Platform.of("linux", "amd64"))

        async def is_over() -> bool:
            return job.ended is not None

        await until(is_over)
        task.cancel()
        await asyncio.wait([task])
        assert job.state is JobState.SUCCEEDED
        wanted = {alone.root.digest, kept.root.digest}
        assert {one.digest for one in job.images} == wanted
        assert set(there.replicas.held()) == wanted
        assert [action["action"] for action in here.actions] == ["evacuate", "evacuate"]
        assert full.is_empty()


async def test_an_evacuation_needs_another_node() -> None:
    async with preheated() as node:
        with pytest.raises(RequestInvalid, match="no other node"):
            await node.jobs.evacuate({}, actor="uid 0")


def order(one_digest: Digest, name: str = "registry.example/team/app:1") -> ImageOrder:
    return ImageOrder(
        image=Reference.parse(name),
        digest=one_digest,
        platform=Platform.of("linux", "amd64"),
        expires=2e9,
    )


async def test_a_node_that_was_started_again_is_asked_again() -> None:
    """It has forgotten the request, not the bytes."""
    one = image()
    async with preheated() as there:
        there.mirror.add(one)
        requests = Requests({})
        nodes = OtherNodes(requests=requests)
        progress = NodeProgress()
        async with responding(there) as responder:
            requests.handlers["other"] = lambda peer, raw: responder.handle(peer, raw)
            there.mirror.status[str(one.blobs[-1].digest)] = 503
            task = asyncio.create_task(
                nodes.preheat("other", "a", order(one.root.digest), progress, until=2e9)
            )

            async def is_taking() -> bool:
                return progress.why != "" or progress.stage is PreheatStage.TAKING

            await until(is_taking)
        there.mirror.status.clear()
        async with responding(there) as again:
            requests.handlers["other"] = again.handle
            await task
        assert progress.stage in (PreheatStage.DONE, PreheatStage.HERE)


async def test_a_node_that_does_not_answer_is_lost() -> None:
    progress = NodeProgress()
    nodes = OtherNodes(requests=Requests({}))
    await nodes.preheat("other", "a", order(Digest.of(b"x")), progress, until=2e9)
    assert (progress.stage, progress.why) == (PreheatStage.LOST, "no-answer")


@pytest.mark.parametrize(
    ("is_open", "name", "why"),
    [
        (False, "registry.example/app:1", "off"),
        (True, "localhost:5000/app:1", "refused"),
        (True, "127.0.0.1:5000/app:1", "refused"),
    ],
)
async def test_what_another_node_may_not_ask_for(is_open: bool, name: str, why: str) -> None:
    """A node may close itself, and no node sends requests to servers of its own machine."""
    async with preheated() as there, responding(there, is_open=is_open) as responder:
        nodes = OtherNodes(requests=Requests({"other": responder.handle}))
        progress = NodeProgress()
        await nodes.preheat("other", "a", order(Digest.of(b"x"), name), progress, until=2e9)
        assert (progress.stage, progress.why) == (PreheatStage.REFUSED, why)


async def test_the_requests_of_one_node_are_bounded_and_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node cannot fill another one's queue, nor look at another node's jobs, nor drop them."""
    async with preheated() as there, responding(there) as responder:
        for number in range(MAX_PENDING_PER_PEER + 1):
            ask = PreheatAsk(
                job="a",
                image=ASK.image,
                digest=Digest.of(str(number).encode()),
                seen=None,
                platform=None,
                keep=60.0,
                within=60.0,
            )
            answer = PreheatAnswer.decode(responder.handle("one", encode_ask(ask))).progress
        assert answer is not None
        assert (answer.stage, answer.why) == (PreheatStage.REFUSED, "full")
        look = encode_ask(PreheatLook("a", Digest.of(b"0")))
        assert PreheatAnswer.decode(responder.handle("one", look)).progress is not None
        assert PreheatAnswer.decode(responder.handle("two", look)).progress is None
        drop = encode_ask(PreheatLook("a", Digest.of(b"0"), is_drop=True))
        assert PreheatAnswer.decode(responder.handle("two", drop)).progress is None
        assert PreheatAnswer.decode(responder.handle("one", look)).progress is not None


async def test_a_node_gives_up_when_the_time_is_over() -> None:
    one = image(size=200_000)
    async with preheated() as there, responding(there) as responder:
        there.mirror.add(one)
        ask = PreheatAsk(
            job="a",
            image=ASK.image,
            digest=one.root.digest,
            seen=None,
            platform=Platform.of("linux", "amd64"),
            keep=60.0,
            within=0.3,
            rate=65_536,
        )
        responder.handle("one", encode_ask(ask))
        look = encode_ask(PreheatLook("a", one.root.digest))

        async def has_given_up() -> bool:
            progress = PreheatAnswer.decode(responder.handle("one", look)).progress
            return progress is not None and progress.why == "timeout"

        await until(has_given_up)
        assert there.is_empty()


async def test_a_listed_tag_is_told() -> None:
    """A node that does not know it, or is too old for the question, tells nothing."""
    tag = ListedTag(Digest.of(b"tag"), 12.5)
    async with preheated() as node:
        responder = PreheatResponder(
            local=node.local, metrics=node.counted, is_open=True, drain=node.drain
        )
        task = asyncio.create_task(responder.run())
        others = OtherNodes(requests=Requests({"other": responder.handle}))
        await asyncio.sleep(0)
        assert await others.resolve("other", ASK.image) is None
        responder.listed_tag = lambda image: tag if image == ASK.image else None
        assert await others.resolve("other", ASK.image) == tag
        assert await others.resolve("unknown", ASK.image) is None
        task.cancel()
        await asyncio.wait([task])
    assert decode_ask(encode_ask(PreheatResolve(ASK.image))) == PreheatResolve(ASK.image)


async def test_the_name_of_a_node_is_known_once_it_has_answered() -> None:
    """It stands in jobs beside the address."""
    raw = encode_state(NodeProgress(PreheatStage.DONE), name="worker-2")
    assert PreheatAnswer.decode(encode_state(None, name="worker-2")) == PreheatAnswer(
        None, "worker-2"
    )
    assert PreheatAnswer.decode(encode_state(None, name="a" * 200)) == PreheatAnswer(None)
    others = OtherNodes(requests=Requests({"other": lambda peer, message: raw}))
    assert [one.label for one in others.known()] == ["10.0.0.2"]
    order = ImageOrder(image=ASK.image, digest=ASK.digest, platform=None, expires=2e9)
    await others.preheat("other", "job", order, NodeProgress(), until=2e9)
    assert [one.label for one in others.known()] == ["worker-2 (10.0.0.2)"]
