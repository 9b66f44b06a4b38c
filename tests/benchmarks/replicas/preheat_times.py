"""Measures pre-heats of one node and of all, and pulls of what they bring.

Run it with `python -m tests.benchmarks.replicas.preheat_times`. Each node has a real containerd,
and the registry sends over a limited link. It needs root and the packages of the lab.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from spegel_py.oci.build import Image
from spegel_py.store.base import Replica, ReplicaReason
from spegel_py.store.containerd import Client, ContainerdStore
from spegel_py.store.walker import Walker
from tests.benchmarks.machine import conditions
from tests.integration.cluster import heal
from tests.support.images import child, image
from tests.support.lab import REGISTRY, Lab, Node, start_lab
from tests.support.processes import run

LINK = "200mbit"
"""The link of the registry: 25 MB/s."""

SIZE, LAYERS = 21_000_000, 4
"""Bytes of a layer, and layers of an image: 84 MB."""

DAY = 86_400.0


async def _measure(nodes: int, rounds: int, pulls: int) -> None:
    async with start_lab(nodes=nodes) as lab:
        await heal(lab, mirrored_registries=f"http://{REGISTRY}")
        await lab.registry.namespace.limit(LINK)
        version = ".".join(map(str, await lab.nodes[0].daemon.version()))
        print(f"containerd {version}, {nodes} nodes, link {LINK}; {conditions()['load average']}")
        if rounds:
            await _measure_jobs(lab, rounds)
        await _measure_pulls(lab, pulls)
        print(f"at the end: {conditions()['load average']}")


async def _measure_jobs(lab: Lab, rounds: int) -> None:
    """Print the times of pre-heats of one node and of all, and the copies they cost."""
    alone, everywhere = [], []
    for number in range(rounds):
        alone.append(await _preheat(lab, f"alone{number}", "1"))
        everywhere.append(await _preheat(lab, f"all{number}", "all"))
    count = len(lab.nodes)
    for name, found in (("one node", alone), (f"{count} nodes", everywhere)):
        seconds, copies = [one for one, _ in found], [one for _, one in found]
        print(f"{name}: {_listed(seconds)} s; copies from the registry {_listed(copies)}")
    medians = [statistics.median(one for one, _ in each) for each in (everywhere, alone)]
    print(f"time of {count} nodes against one: {medians[0] / medians[1]:.2f}")


async def _preheat(lab: Lab, name: str, nodes: str) -> tuple[float, float]:
    """Pre-heat an image; return the seconds, and the copies that the registry sent."""
    one, reference = image(name, layers=LAYERS, size=SIZE), lab.name(f"test/{name}:1")
    await lab.registry.push(reference, one)
    lab.registry.forget()
    began = time.monotonic()
    job = json.loads(await _command(lab.nodes[0], reference, "--nodes", nodes, "--wait", "--json"))
    seconds = time.monotonic() - began
    sent = sum(each.size for each in lab.registry.requests("GET") if each.status in (200, 206))
    await _command(lab.nodes[0], "cancel", job["id"])
    return seconds, sent / sum(len(blob.data) for blob in one.blobs)


async def _measure_pulls(lab: Lab, pulls: int) -> None:
    """Print the times of the CRI's pulls of one image, and of holds of it."""
    node = lab.nodes[0]
    one, reference = image("pulls", layers=LAYERS, size=SIZE), lab.name("test/pulls:1")
    await lab.registry.push(reference, one)
    for depth in ("content", "unpacked"):
        await _command(node, reference, "--depth", depth, "--wait")
        count = pulls if depth == "unpacked" else max(3, pulls // 8)
        found = []
        for _ in range(count):
            found.append(await _timed(lambda: node.cri.pull(reference)))
            await node.cri.remove(reference)
        print(f"pull of a replica, {depth}: {_shares(found)}")
    await node.cri.pull(reference)
    print(f"hold of a pulled image: {_shares(await _holds(node, one, pulls))}")


async def _holds(node: Node, one: Image, count: int) -> list[float]:
    """Return the seconds of holds of a pulled image, each of which is released again."""
    found = []
    async with Client(socket=node.daemon.socket) as client:
        store = ContainerdStore(client=client, content_path=node.daemon.content_path)
        [content] = (await Walker(open=store.open).images(child(one), store.stat)).values()
        replica = Replica(
            image=content,
            names={},
            reason=ReplicaReason.FLOOR,
            used=time.time(),
            expires=round(time.time() + DAY),
        )
        for _ in range(count):
            found.append(await _timed(lambda: store.replicas.hold(dataclasses.replace(replica))))
            await store.replicas.release(content.manifest)
    return found


async def _command(node: Node, *arguments: str) -> str:
    socket = node.folder / "data" / "control.sock"
    command = (sys.executable, "-m", "spegel_py", "preheat", *arguments)
    return await run(*command, "--control-socket", str(socket))


async def _timed(action: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await action()
    return time.monotonic() - began


def _shares(seconds: Sequence[float]) -> str:
    ordered = sorted(1000 * one for one in seconds)
    last = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"p50 {statistics.median(ordered):.0f} ms, p95 {last:.0f} ms of {len(ordered)}"


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replicas.preheat_times")
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pulls", type=int, default=40)
    options = parser.parse_args()
    asyncio.run(_measure(options.nodes, options.rounds, options.pulls))


if __name__ == "__main__":
    main()
