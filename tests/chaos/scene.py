"""One round: some pullers pull at once while a fault strikes, and what became of each pull."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Literal

import grpc.aio

from tests.chaos.field import Field, Traffic
from tests.integration.cluster import metric
from tests.lab import Node
from tests.processes import until

DEADLINE = 60.0
"""Seconds after which a pull counts as hung."""

FAILURES = ("unreachable", "stalled", "refused", "mismatch")
"""Outcomes of requests to peers that speak against the peer."""

Content = Literal["right", "incomplete", "wrong"]
"""Whether each blob of the image lies in the content store, and whether each that does has its digest."""


class NotPossible(Exception):
    """This machine cannot break that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One pull by a containerd; what its node counts, bytes by where they came from among it, is None where it died."""

    seconds: float
    """What its longest try took."""
    succeeded: bool
    errors: tuple[str, ...] = ()
    """Why tries failed, in order."""
    content: Content = "incomplete"
    failures: int | None = None
    """Requests to peers that failed: they broke, stalled, refused or sent wrong bytes."""
    local: int | None = None
    peer: int | None = None
    registry: int = 0


class Scene:
    """What a fault may look at and touch."""

    def __init__(self, *, field: Field, pullers: Sequence[Node], start: Traffic) -> None:
        self.field = field
        self.pullers = pullers
        self._start = start

    async def server(self, among: Sequence[Node] | None = None) -> Node:
        """Return the seed that has sent the most since the round began."""
        sent = (await self.field.traffic()).sent

        def count(node: Node) -> int:
            return sent[node.namespace.port] - self._start.sent[node.namespace.port]

        return max(among or self.field.seeds, key=count)

    async def moved(self, count: int, pulls: Sequence[asyncio.Task[Pull]]) -> None:
        """Wait until so many bytes have come to the pullers, while all of them pull."""

        async def have() -> bool:
            if over := [pull.result() for pull in pulls if pull.done()]:
                raise AssertionError(f"over before the fault: {over}")
            received = (await self.field.traffic()).received
            ports = [node.namespace.port for node in self.pullers]
            return sum(received[port] - self._start.received[port] for port in ports) >= count

        await until(have, deadline=DEADLINE, pause=0.05)


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]
"""Breaks something when entered, and mends it at the end, save processes that ended: those are started again."""


async def play(
    field: Field,
    pullers: Sequence[Node],
    *,
    before: Sequence[Fault] = (),
    during: Sequence[Fault] = (),
    share: float = 0.0,
    tries: int = 1,
) -> list[Pull]:
    """Pull on fresh nodes, with `before` broken already and `during` breaking when a `share` of the bytes has come.

    A pull that fails is tried again, up to so many `tries`. Raises AssertionError where one was over before `during`.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(field.slow_links(pullers))
        scene = Scene(field=field, pullers=pullers, start=await field.traffic())
        for fault in before:
            await stack.enter_async_context(fault(scene))
        pulls = [asyncio.create_task(_pull(field, node, tries)) for node in pullers]
        stack.callback(lambda: [pull.cancel() for pull in pulls])
        if during:
            await scene.moved(int(share * field.size * len(pullers)), pulls)
        for fault in during:
            await stack.enter_async_context(fault(scene))
        return await asyncio.gather(*pulls)


async def _pull(field: Field, node: Node, tries: int) -> Pull:
    errors: list[str] = []
    longest, succeeded = 0.0, False
    while not succeeded and len(errors) < tries:
        if errors:
            await until(lambda: _is_ready(node, errors[-1]), deadline=DEADLINE, pause=0.1)
        began = time.monotonic()
        try:
            await node.cri.pull(field.reference, deadline=DEADLINE)
            succeeded = True
        except grpc.aio.AioRpcError as failure:
            errors.append(f"{failure.code().name}: {failure.details()}")
        longest = max(longest, time.monotonic() - began)
    counted = await _counted(node)
    return Pull(
        seconds=longest,
        succeeded=succeeded,
        errors=tuple(errors),
        content=await asyncio.to_thread(_content, field, node),
        failures=counted.get("failures"),
        local=counted.get("local"),
        peer=counted.get("peer"),
        registry=sum(one.size for one in field.lab.registry.requests("GET") if one.client == node.address),
    )


async def _is_ready(node: Node, error: str) -> bool:
    """Say whether a containerd may be asked again after an error, as it may when a kubelet does it, after 10 s.

    It is there again if it died, and it has thrown away what it had of a blob that turned out to be wrong.
    """
    try:
        await node.cri.images()
    except grpc.aio.AioRpcError:
        return False
    return "commit digest" not in error or not list((node.daemon.content_path / "ingest").glob("*/data"))


def _content(field: Field, node: Node) -> Content:
    found: Content = "right"
    for blob in field.image.blobs:
        try:
            with node.daemon.path(blob.digest).open("rb") as file:
                if hashlib.file_digest(file, blob.digest.algorithm).hexdigest() != blob.digest.hex:
                    return "wrong"
        except FileNotFoundError:
            found = "incomplete"
    return found


async def _counted(node: Node) -> dict[str, int]:
    """Return what a node has counted since it started; nothing if it has ended."""
    served, attempts = "spegel_served_bytes_total", "spegel_peer_attempts_total"
    try:
        counts = {source: await metric(node, served, source=source) for source in ("local", "peer")}
        failures = [await metric(node, attempts, outcome=outcome) for outcome in FAILURES]
    except (OSError, http.client.HTTPException):
        return {}
    return {name: int(count) for name, count in (counts | {"failures": sum(failures)}).items()}
