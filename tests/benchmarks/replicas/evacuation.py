"""Measures how soon a node's only copies are elsewhere.

Run it with `python -m tests.benchmarks.replicas.evacuation`. Each of the nodes has a real
containerd. The first one pulls all images and is told to evacuate. It needs root and the packages
of the lab.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from tests.benchmarks.machine import conditions
from tests.integration.cluster import heal, metric
from tests.support.images import image
from tests.support.lab import start_lab
from tests.support.processes import run

MB = 1_000_000


async def _measure(nodes: int, images: int, size: int) -> None:
    async with start_lab(nodes=nodes) as lab:
        await heal(lab)
        first, *others = lab.nodes
        for number in range(images):
            reference = lab.name(f"test/sole{number}:1")
            await lab.registry.push(
                reference, image(f"sole{number}", layers=2, size=size * MB // 2)
            )
            await first.cri.pull(reference)
        lab.registry.forget()
        load, began = conditions()["load average"], time.monotonic()
        socket = str(first.folder / "data" / "control.sock")
        command = (sys.executable, "-m", "spegel_py", "evacuate", "--wait", "--json")
        job = json.loads(await run(*command, "--control-socket", socket, deadline=900.0))
        seconds = time.monotonic() - began
        asked = len(lab.registry.requests())
        counts = [int(await metric(node, "spegel_replicas")) for node in others]
    print(f"{images} images of {size} MB, {nodes} nodes; load {load}")
    print(f"{job['state']} after {seconds:.1f} s: {images * size / seconds:.0f} MB/s")
    print(f"on the other nodes: {counts}; requests to the registry: {asked}")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replicas.evacuation")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=100, help="MB of each image")
    options = parser.parse_args()
    asyncio.run(_measure(options.nodes, options.images, options.size))


if __name__ == "__main__":
    main()
