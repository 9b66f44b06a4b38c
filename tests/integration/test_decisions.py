"""`spegel-py why` and `resolve` on real nodes: each way a pull can go is told as it went."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.cluster import (
    events,
    has_moved,
    limited,
    manifest_path,
    metric,
    publish,
    registry_away,
    start_cluster,
)
from tests.support.images import image
from tests.support.lab import Lab, Node, until
from tests.support.processes import run

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

SIZE, MOVED, RATE = 24_000_000, 4_000_000, "40mbit"
"""A layer that takes 5 s, of which so many bytes have come when its only holder dies."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with start_cluster(2, registry_filters="test/secret", verify_blobs="off") as lab:
        yield lab


async def ask(node: Node, *arguments: str) -> Any:
    """Run a command for people on a node's machine, and return its JSON."""
    return json.loads(
        await run(*node.namespace.prefix, sys.executable, "-m", "spegel_py", *arguments, "--json")
    )


async def why(node: Node, what: str, method: str = "GET") -> dict[str, Any]:
    """Return the latest decision about something."""
    decisions = (await ask(node, "why", what))["decisions"]
    return next(one for one in decisions if one["method"] == method)


async def test_why_tells_a_hit_a_miss_and_a_filter(lab: Lab) -> None:
    """From a peer, with its address; nobody has it; not mirrored. The log has the same records."""
    app = image("why/hit", layers=1)
    reference = lab.name("test/app:why-hit")
    holder, puller = lab.nodes
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        await puller.cri.pull(reference)
    layer = await why(puller, str(app.blobs[-1].digest))
    assert (layer["verdict"], layer["source"], layer["local"]) == ("hit", "peer", "absent")
    assert layer["text"] == f"from {holder.address}:5000"
    assert layer["bytes"] == {"local": 0, "peer": len(app.blobs[-1].data)}
    assert [one["addr"] for one in layer["attempts"]] == [f"{holder.address}:5000"]

    missing, secret = lab.name("test/app:why-missing"), lab.name("test/secret:1")
    for name in (missing, secret):
        assert (await puller.get(manifest_path(name))).status == 404
    assert (await why(puller, missing))["reason"] == "not_found"
    assert (await why(puller, secret))["reason"] == "filtered"

    logged = {one["key"]: one for one in events(puller, "pull decided", method="GET")}
    for name in (missing, secret):
        record = await why(puller, name)
        assert record.items() <= logged[name].items()

    found = await ask(puller, "resolve", reference)
    assert (found["local"], [peer["address"] for peer in found["peers"]]) == (
        "held",
        [f"{holder.address}:5000"],
    )
    status = await ask(puller, "status")
    assert status["pulls"]["misses"]["filtered"] == await metric(
        puller, "spegel_mirror_misses_total", reason="filtered"
    )
    assert [peer["health"] for peer in status["peers"]] == ["healthy"]


def grown(puller: Node, holder: Node) -> list[tuple[Node, str, dict[str, str]]]:
    """Return the meters that one pull through a peer moves up: Spegel's names first, then ours."""
    peer = f"{holder.address}:5000"
    return [
        (puller, "spegel_mirror_requests_total", {"cache": "hit"}),
        (puller, "spegel_mirror_last_success_timestamp_seconds", {}),
        (puller, "spegel_resolve_duration_seconds_count", {"router": "libp2p"}),
        (puller, "spegel_advertised_image_tags", {}),
        (puller, "spegel_advertised_image_digests", {}),
        (puller, "spegel_advertised_content_digests", {}),
        *(
            (node, name, {"handler": handler, "code": "200"})
            for node in (puller, holder)
            for name in ("http_request_duration_seconds_count", "http_response_size_bytes_sum")
            for handler in ("manifests", "blobs")
        ),
        (puller, "spegel_mirror_answers_total", {"source": "peer"}),
        (puller, "spegel_mirror_bytes_total", {"source": "peer"}),
        (holder, "spegel_served_bytes_total", {"source": "local"}),
        (puller, "spegel_peer_attempts_total", {"outcome": "ok"}),
        (puller, "spegel_peer_requests_total", {"peer": peer, "outcome": "ok"}),
        (puller, "spegel_peer_received_bytes_total", {"peer": peer}),
        (puller, "spegel_peer_first_byte_seconds_count", {"peer": peer}),
        (puller, "spegel_peer_first_byte_seconds_sum", {"peer": peer}),
        (holder, "spegel_records_held", {}),
        (holder, "spegel_dht_records", {"kind": "announced"}),
        *(
            (node, name, {"direction": direction, "frame": "add"})
            for name in ("spegel_announce_frames_total", "spegel_announce_bytes_total")
            for node, direction in ((puller, "sent"), (holder, "received"))
        ),
    ]


async def test_a_pull_moves_the_meters(lab: Lab) -> None:
    """What a node counts of a pull is seen at both ends, while it goes on and when it is over."""
    app = image("meters", layers=1, size=SIZE)
    reference = lab.name("test/app:meters")
    holder, puller = lab.nodes
    await publish(lab, reference, app, holder)
    meters = grown(puller, holder)
    before = [await metric(node, name, **labels) for node, name, labels in meters]
    pull = asyncio.create_task(puller.cri.pull(reference))
    async with limited(puller, RATE):
        await has_moved(puller, MOVED)
        for node, name, labels in (
            (puller, "spegel_queue_length", {"queue": "relay"}),
            (holder, "spegel_queue_length", {"queue": "send"}),
            (puller, "http_requests_inflight", {"handler": "blobs"}),
            (holder, "http_requests_inflight", {"handler": "blobs"}),
            (holder, "spegel_peer_transfers", {}),
            (puller, "spegel_dht_peers", {"protocol": "announce"}),
        ):
            assert await metric(node, name, **labels) == 1, (node, name, labels)
    await pull

    async def have_moved() -> bool:
        after = [await metric(node, name, **labels) for node, name, labels in meters]
        still = [
            (name, labels)
            for (_, name, labels), was, now in zip(meters, before, after, strict=True)
            if now <= was
        ]
        return not still

    await until(have_moved, deadline=20)


async def test_images_and_a_measurement_are_asked_of_a_node(lab: Lab) -> None:
    """Who has an image beside the node, and how it came: all of it from the peer, which is
    named.
    """
    app = image("measured", layers=2)
    reference = lab.name("test/app:measured")
    holder, puller = lab.nodes
    await publish(lab, reference, app, holder)
    [listed] = (await ask(holder, "images", "app:measured"))["images"]
    assert (listed["name"], listed["digest"], listed["missing"]) == (
        reference,
        str(app.root.digest),
        0,
    )
    measured = await ask(puller, "measure", reference)
    assert {part["source"] for part in measured["parts"]} == {"peer"}
    assert measured["sources"] == {"local": 0, "peer": sum(len(blob.data) for blob in app.blobs)}
    assert (await ask(puller, "images", "app:measured"))[
        "images"
    ] == []  # its bytes were thrown away


async def test_why_tells_a_cut(lab: Lab) -> None:
    """When the only holder dies in mid-layer, the record says after which byte, and containerd went
    upstream.
    """
    app = image("why/cut", layers=1, size=SIZE)
    reference = lab.name("test/app:why-cut")
    holder, puller = lab.nodes
    await publish(lab, reference, app, holder)
    digest = str(app.blobs[-1].digest)
    pull = asyncio.create_task(puller.cri.pull(reference))
    async with limited(puller, RATE):
        await has_moved(puller, MOVED)
        assert holder.spegel
        await holder.spegel.end(signal.SIGKILL)

        async def is_decided() -> bool:
            return bool(events(puller, "pull decided", digest=digest, method="GET", reason="cut"))

        await until(is_decided, deadline=30)
    await pull
    decisions = (await ask(puller, "why", digest))["decisions"]
    [cut] = [one for one in decisions if one["reason"] == "cut"]
    assert MOVED <= cut["bytes"]["peer"] < SIZE
    assert cut["text"].startswith(
        f"cut short after {cut['bytes']['peer']} of {len(app.blobs[-1].data)} bytes"
    )
    assert [one["addr"] for one in cut["attempts"] if one["bytes"]] == [f"{holder.address}:5000"]
