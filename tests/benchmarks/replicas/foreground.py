"""Measures pulls by a runtime beside nodes that take images, on three nodes.

Run it with `python -m tests.benchmarks.replicas.foreground`. Each node has a real containerd. The
first one has all images, and the second one's link is limited. In each round a runtime on the
second node pulls an image alone, and another one while this node and the third one take a large
image from the first node. It needs root and the packages of the lab.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from tests.benchmarks.machine import conditions
from tests.integration.cluster import heal, metric
from tests.support.images import image
from tests.support.lab import Lab, Node, start_lab, until

MIB = 1024 * 1024
LINK = "200mbit"
"""The link to the second node: 25 MB/s, so that 20 MiB/s in the background would fill it."""

PULLED, TAKEN = 24 * MIB, 90 * MIB
"""Bytes of a layer of the images that are pulled, and of those that are taken; each has two."""


async def _measure(rounds: int) -> None:
    alone, beside, meanwhile, taken = [], [], [], []
    async with start_lab(nodes=3) as lab:
        for node in lab.nodes:
            node.program = "tests.support.quick_replicas"
        await heal(lab, replica_floor="3", replicate_images="test/taken")
        first, second, _ = lab.nodes
        await second.namespace.limit(LINK)
        for number in range(rounds):
            references = [await _prepare(lab, f"{name}{number}") for name in ("alone", "beside")]
            await asyncio.sleep(1.0)  # the records of the first node reach the second one
            alone.append(await _pull(second, references[0]))
            reference = lab.name(f"test/taken{number}:1")
            await lab.registry.push(reference, image(f"taken{number}", layers=2, size=TAKEN))
            await first.cri.pull(reference)
            await until(lambda: _is_taking(second), deadline=60.0)
            began = time.monotonic()
            before = sum(_background(second))
            beside.append(await _pull(second, references[1]))
            meanwhile.append((sum(_background(second)) - before) / 1e6)
            count = float(number + 1)
            assert await metric(second, "spegel_replicas") < count, "the take was over too soon"
            await until(partial(_has_taken, lab, count), deadline=120.0)
            taken.append(time.monotonic() - began)
        waited = await metric(second, "spegel_replica_yield_seconds_total")
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"{rounds} rounds, link {LINK}; {conditions()['load average']}")
    print(f"alone  {_listed(alone)} s, median {statistics.median(alone):.2f}")
    print(f"beside {_listed(beside)} s, median {statistics.median(beside):.2f}")
    print(f"MB that were taken meanwhile: {_listed(meanwhile)}, of {2 * PULLED / 1e6:.0f} pulled")
    print(f"ratio {ratio:.2f}; the takes needed {_listed(taken)} s; waited {waited:.1f} s")


async def _prepare(lab: Lab, name: str) -> str:
    """Let the first node have an image; return its reference."""
    reference = lab.name(f"test/{name}:1")
    await lab.registry.push(reference, image(name, layers=2, size=PULLED))
    await lab.nodes[0].cri.pull(reference)
    return reference


async def _pull(node: Node, reference: str) -> float:
    """Return the seconds of a pull."""
    began = time.monotonic()
    await node.cri.pull(reference)
    return time.monotonic() - began


async def _is_taking(node: Node) -> bool:
    return any(size for size in _background(node))


def _background(node: Node) -> Iterator[int]:
    for path in (node.daemon.content_path / "ingest").glob("*/ref"):
        with suppress(FileNotFoundError):  # it was complete just now
            if "spegel-py-background" in path.read_text():
                yield path.with_name("data").stat().st_size


async def _has_taken(lab: Lab, count: float) -> bool:
    counts = [await metric(node, "spegel_replicas") for node in lab.nodes]
    return all(one >= count for one in counts)


def _listed(values: list[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replicas.foreground")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(_measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
