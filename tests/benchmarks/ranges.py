"""Small ranges of one large layer, as snapshotters that pull lazily read them: from a node's own
store, and through it from a peer.
"""

from __future__ import annotations

import asyncio
import http.client
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from spegel_py.oci import build
from tests.benchmarks import machine, nodes
from tests.benchmarks.figures import Figure, latencies
from tests.support import images

LAYER = 128 * 1024 * 1024
"""Bytes of the layer."""

RANGE = 4096
"""Bytes of a range: a page, which a container faults in."""

AT_ONCE = 16
"""Connections that read at the same time."""

PARTS = 32
"""Ranges of one request, where several are asked for together."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Requests of one kind: the seconds of each, and the CPU seconds of all nodes."""

    seconds: Sequence[float]
    cpu: float
    wrong: int


async def measure(*, is_quick: bool) -> list[Figure]:
    """Read ranges one after the other, many at once, and several in one request."""
    count = 300 if is_quick else 2000
    app = build.image([images.random_layer("lazy", LAYER)])
    layer = max(app.blobs, key=lambda blob: len(blob.data))
    held = {"registry.test/bench/lazy:1": app}
    figures: list[Figure] = []
    async with nodes.cluster([{}, held]) as cluster:
        await nodes.told(cluster, nodes.records(held))
        asking, holder = cluster
        path = f"/v2/bench/lazy/blobs/{layer.digest}?ns=registry.test"
        for name, node in (("own store", holder), ("peer", asking)):
            pids = [each.pid for each in cluster]
            await _read(node.registry, path, layer.data, pids, count=50)
            one = await _read(node.registry, path, layer.data, pids, count=count)
            many = await _read(node.registry, path, layer.data, pids, count=count, at_once=AT_ONCE)
            parts = await _read(
                node.registry, path, layer.data, pids, count=count // 10, parts=PARTS
            )
            figures += [
                _figure(f"4 KiB range, {name}", "one connection", one),
                _figure(f"4 KiB range, {name}", f"{AT_ONCE} connections", many),
                _figure(f"{PARTS} ranges of 4 KiB in one request, {name}", "one connection", parts),
            ]
    return figures


def _figure(name: str, conditions: str, found: _Read) -> Figure:
    count = len(found.seconds)
    return Figure(
        name=name,
        conditions=f"{conditions}, {LAYER // 2**20} MiB layer, 2 nodes",
        unit="ms",
        values=latencies(found.seconds)
        | {
            "CPU of both nodes": 1000 * found.cpu / count,
            "wrong": float(found.wrong),
        },
        targets={"wrong": 0.0},
        samples=count,
    )


async def _read(
    port: int,
    path: str,
    data: bytes,
    pids: Sequence[int],
    *,
    count: int,
    at_once: int = 1,
    parts: int = 1,
) -> _Read:
    """Read `count` times `parts` random ranges, over `at_once` connections."""
    cpu = sum(map(machine.cpu_seconds, pids))
    found = await asyncio.gather(
        *(
            asyncio.to_thread(_worker, port, path, data, seed, count // at_once, parts)
            for seed in range(at_once)
        )
    )
    return _Read(
        seconds=[each for seconds, _ in found for each in seconds],
        cpu=sum(map(machine.cpu_seconds, pids)) - cpu,
        wrong=sum(wrong for _, wrong in found),
    )


def _worker(
    port: int, path: str, data: bytes, seed: int, count: int, parts: int
) -> tuple[list[float], int]:
    chosen, seconds, wrong = random.Random(seed), [], 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(count):
        pages = sorted(chosen.sample(range(LAYER // RANGE), parts))
        starts = [page * RANGE for page in pages]
        ranges = ",".join(f"{start}-{start + RANGE - 1}" for start in starts)
        began = time.perf_counter()
        connection.request("GET", path, headers={"Range": f"bytes={ranges}"})
        answer = connection.getresponse()
        body = answer.read()
        seconds.append(time.perf_counter() - began)
        is_right = answer.status == 206 and all(
            data[start : start + RANGE] in body for start in starts
        )
        wrong += not is_right or len(body) > 2 * parts * RANGE
    connection.close()
    return seconds, wrong
