"""A lab whose nodes all run spegel-py, and what tests ask of it: who finds what, what was counted,
what was logged.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

from spegel_py.oci.build import Blob, Image
from tests.support.lab import REGISTRY, Lab, Node, Response, start_lab, total, until
from tests.support.processes import Process, run

PROMPT = 0.3
"""Seconds within which a node says that nobody has something: a runtime waits for it with every
pull.
"""


@asynccontextmanager
async def start_cluster(nodes: int, **flags: str | None) -> AsyncIterator[Lab]:
    """Start a lab with spegel-py on every node, and have each containerd ask its own before the
    registry.
    """
    async with start_lab(nodes=nodes) as lab:
        await heal(lab, **flags)
        yield lab


async def heal(lab: Lab, **flags: str | None) -> None:
    """Start what does not run, plug in what is unplugged, and wait until everybody knows
    everybody.
    """
    if lab.registry.process.pid is None:
        await lab.registry.start()
    await asyncio.gather(
        *(_heal(node, {"static_bootstrap_peers": everybody(lab), **flags}) for node in lab.nodes)
    )
    await joined(*lab.nodes)


def everybody(lab: Lab) -> str:
    """Return the bootstrap peers that name all nodes, as a DNS name of all would."""
    return ",".join(f"/ip4/{node.address}/tcp/5001" for node in lab.nodes)


async def _heal(node: Node, flags: dict[str, str | None]) -> None:
    await node.namespace.plug(is_in=True)
    node.write_hosts_toml(mirror=f"http://{node.address}:5000")
    if node.daemon.process.pid is None:
        await node.daemon.start()
    if node.spegel is None or node.spegel.pid is None:
        await node.start_spegel(**flags)


async def joined(*nodes: Node, deadline: float = 60.0) -> None:
    """Wait until these nodes know each other, and nobody else."""

    async def all_know_all() -> bool:
        counts = [await metric(node, "spegel_connected_peers") for node in nodes]
        return all(count == len(nodes) - 1 for count in counts)

    await until(all_know_all, deadline=deadline, pause=0.1)


@asynccontextmanager
async def registry_away(lab: Lab) -> AsyncIterator[None]:
    """Stop the registry for a while, and fail if it was asked for anything."""
    await lab.registry.stop()
    lab.registry.forget()
    try:
        yield
        assert lab.registry.requests() == []
    finally:
        await lab.registry.start()


@asynccontextmanager
async def limited(node: Node, rate: str) -> AsyncIterator[None]:
    """Slow down what arrives at a node, so that a transfer to it takes as long as a test needs."""
    await node.namespace.limit(rate)
    try:
        yield
    finally:
        await run(
            "tc", "-n", node.namespace.switch, "qdisc", "del", "dev", node.namespace.port, "root"
        )


async def kill_node(node: Node) -> None:
    """Take a machine away as a power cut does: no packet leaves it any more."""
    await node.namespace.plug(is_in=False)
    assert node.spegel
    await asyncio.gather(node.spegel.end(signal.SIGKILL), node.daemon.kill())


async def exit_status(process: Process) -> int | None:
    """Wait for a process to end by itself and return how it ended."""
    running = process._process  # what Process.end throws away is what is asked for here
    return await running.wait() if running else None


# What a node answers


def manifest_path(reference: str | Blob, repository: str = "test/app") -> str:
    """Return the target under which containerd asks for a manifest: a full reference with a tag, or
    a blob.
    """
    if isinstance(reference, str):
        repository, _, last = reference.removeprefix(f"{REGISTRY}/").rpartition(":")
    else:
        last = str(reference.digest)
    return f"/v2/{repository}/manifests/{last}?ns={REGISTRY.replace(':', '%3A')}"


def blob_path(blob: Blob, repository: str = "test/app") -> str:
    """Return the target under which containerd asks for a blob."""
    return manifest_path(blob, repository).replace("/manifests/", "/blobs/")


async def state(node: Node, *, timeout: float = 10.0) -> Mapping[str, Any]:
    """Return what a node says of itself at `/debug/state`."""
    told: Mapping[str, Any] = json.loads(
        (await node.get("/debug/state", port=9090, timeout=timeout)).body
    )
    return told


async def finds(node: Node, path: str) -> bool:
    """Say whether a node has something, or somebody it knows has."""
    return (await node.get(path, method="HEAD")).status == 200


async def found(
    node: Node, reference: str, blobs: Iterable[Blob] = (), *, deadline: float = 10.0
) -> None:
    """Wait until a node finds a tag, and these blobs too (layers and configs, no manifests)."""
    for path in (manifest_path(reference), *map(blob_path, blobs)):

        async def is_found(path: str = path) -> bool:
            return await finds(node, path)

        await until(is_found, deadline=deadline)


async def gone(node: Node, path: str, *, deadline: float) -> None:
    """Wait until a node answers 404."""

    async def is_gone() -> bool:
        return (await node.get(path, method="HEAD")).status == 404

    await until(is_gone, deadline=deadline)


async def timed(node: Node, path: str, method: str = "GET") -> tuple[Response, float]:
    """Ask a node for something and return its answer and the seconds it took."""
    began = time.monotonic()
    answer = await node.get(path, method=method)
    return answer, time.monotonic() - began


# Making and pulling


async def publish(
    lab: Lab, reference: str, image: Image, *holders: Node, is_docker: bool = False
) -> None:
    """Push an image, pull it on the holders, and wait until all other nodes find it at each of
    these.
    """
    await lab.registry.push(reference, image, is_docker=is_docker)
    await asyncio.gather(*(node.cri.pull(reference) for node in holders))
    below = (
        image.blobs[2 if is_docker else 1 :] if image.architecture else ()
    )  # of an index, one platform is pulled
    keys = [reference, *(str(blob.digest) for blob in below)]
    await asyncio.gather(
        *(found_at(node, keys, *holders) for node in lab.nodes if node not in holders)
    )
    lab.registry.forget()


async def found_at(node: Node, keys: Iterable[str], *holders: Node, deadline: float = 10.0) -> None:
    """Wait until a node knows of each of these references and digests that all of the holders, and
    nobody else, have it.
    """
    for key in keys:

        async def is_known(key: str = key) -> bool:
            answer = json.loads(
                (await node.get(f"/debug/resolve?key={quote(key)}", port=9090)).body
            )
            return len(answer["peers"]) == len(holders)

        await until(is_known, deadline=deadline)


async def told(node: Node, *holders: Node, deadline: float = 10.0) -> None:
    """Wait until a node holds records of all that these advertise; nobody else may hold
    anything.
    """

    async def is_told() -> bool:
        wanted = [await advertised(holder) for holder in holders]
        return await metric(node, "spegel_records_held") == sum(wanted)

    await until(is_told, deadline=deadline)


async def advertised(node: Node) -> float:
    """Return the number of keys that a node advertises: its blobs, tags and their repositories."""
    names = ("spegel_advertised_content_digests", "spegel_advertised_image_tags")
    counted = [await metric(node, name) for name in names]
    listed = json.loads((await node.get("/debug/images?limit=500", port=9090)).body)
    repositories = {image["name"].rpartition(":")[0] for image in listed["images"]}
    return sum(counted) + len(repositories)


async def has_moved(node: Node, count: int, *, deadline: float = 20.0) -> None:
    """Wait until so many bytes of a pull under way have come to a node's containerd."""

    async def moved() -> bool:
        return sum(_ingests(node)) >= count

    await until(moved, deadline=deadline)


def _ingests(node: Node) -> Iterator[int]:
    """Yield how long each blob is so far that is being pulled."""
    for path in (node.daemon.content_path / "ingest").glob("*/data"):
        with suppress(FileNotFoundError):  # it was complete just now
            yield path.stat().st_size


# What a node tells about itself


async def metric(node: Node, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    return total((await node.get("/metrics", port=9090)).body.decode(), name, **labels)


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects in the lines of a log that are complete JSON objects."""
    lines = (line for line in text.splitlines() if line.startswith("{") and line.endswith("}"))
    return [json.loads(line) for line in lines]


def events(node: Node, event: str, **fields: object) -> list[dict[str, Any]]:
    """Return a node's log entries with this name and these fields, oldest first."""
    assert node.spegel
    lines = json_lines(node.spegel.output)
    return [line for line in lines if line.get("event") == event and fields.items() <= line.items()]
