"""`make bench-kubernetes`: first pulls and rolling restarts on a real Kubernetes, with default
values and no mirror.

All is one run on one cluster with a containerd 1.6, 1.7 and 2.4. Pulls with and without the mirror
alternate on the same node, each of an image that nobody has; only the folder of hosts.toml files
differs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import statistics
import sys
from collections.abc import Iterator

from tests.benchmarks.figures import Figure, median_and_max
from tests.benchmarks.machine import conditions
from tests.benchmarks.report import aligned, flat
from tests.kubernetes import addresses
from tests.kubernetes.built import reason_to_skip
from tests.kubernetes.cluster import Cluster, start_cluster
from tests.kubernetes.node import Node
from tests.kubernetes.rolling import pulling, restart
from tests.support import images

ROUNDS = 7
"""Pulls with and without the mirror on each node; the median of them counts."""

LAYERS, LAYER = 11, 2_000_000
"""With its config an image has 12 blobs, of 22 MB in all."""

PULLS = 500
"""Pulls during rolling restarts, at least."""

FIRST_RATIO, FIRST_EXTRA = 1.15, 0.1
"""A first pull may take this many times the time without a mirror, and this many seconds more."""

PEER_RATIO = 1.5
"""A pull from another node may take this many times the first pull's time."""

READY = 60.0
"""Seconds from nothing to a chart whose pods are all ready, the programs being built."""

NO_MIRROR = "no-mirror"
"""A folder of hosts.toml files beside certs.d, which names the registry alone."""


async def first_pulls(
    cluster: Cluster, node: Node, other: Node, numbers: Iterator[int], rounds: int
) -> list[Figure]:
    """Pull new images on a node, with and without the mirror in turn, and each on another node
    without the registry.
    """
    plain = node.certs.with_name(NO_MIRROR) / addresses.REGISTRY
    plain.mkdir(parents=True, exist_ok=True)
    (plain / "hosts.toml").write_text(
        f'server = "http://{addresses.REGISTRY}"\n[host."http://{addresses.REGISTRY}"]\n'
        '  capabilities = ["pull", "resolve"]\n'
    )
    with_mirror, without, from_peer = [], [], []
    for _ in range(rounds):
        without.append(
            await node.ctr_pull(await new(cluster, numbers), hosts=f"/etc/containerd/{NO_MIRROR}")
        )
        reference = await new(cluster, numbers)
        with_mirror.append(await node.ctr_pull(reference))
        await cluster.registry.stop()
        from_peer.append(await other.ctr_pull(reference))
        await cluster.registry.start()
    bound = FIRST_RATIO * statistics.median(without) + FIRST_EXTRA
    where = f"containerd {node.containerd}"
    return [
        Figure(
            name="no mirror",
            conditions=where,
            unit="s",
            values=median_and_max(without),
            samples=rounds,
        ),
        Figure(
            name="first pull",
            conditions=where,
            unit="s",
            values=median_and_max(with_mirror),
            targets={"median": bound},
            samples=rounds,
        ),
        Figure(
            name="from another node, the registry stopped",
            conditions=f"{where}, then {other.containerd}",
            unit="s",
            values=median_and_max(from_peer),
            targets={"median": PEER_RATIO * statistics.median(with_mirror)},
            samples=rounds,
        ),
    ]


async def new(cluster: Cluster, numbers: Iterator[int]) -> str:
    """Push an image that nobody has, and return its reference."""
    number = next(numbers)
    app = images.image(f"bench-{number}", layers=LAYERS, size=LAYER)
    return await cluster.push(f"bench/app{number}:1", app)


async def rolling(cluster: Cluster, least: int) -> Figure:
    """Restart all pods, node by node, until there were so many pulls."""
    async with pulling(cluster) as pulls:
        restarts = 0
        while sum(len(each.seconds) + len(each.failures) for each in pulls) < least:
            await restart(cluster)
            restarts += 1
    seconds = [second for each in pulls for second in each.seconds]
    failed = float(sum(len(each.failures) for each in pulls))
    return Figure(
        name="pulls that failed in rolling restarts",
        conditions=(
            f"{restarts} restarts of 3 nodes, the registry stopped, the slowest pull "
            f"{max(seconds):.1f} s"
        ),
        unit="",
        values={"failed": failed},
        targets={"failed": 0.0},
        samples=len(seconds) + int(failed),
    )


async def run(rounds: int, least: int) -> list[Figure]:
    """Measure everything on one cluster."""
    async with start_cluster() as cluster:
        installed = await cluster.install()
        ready = max(cluster.seconds.values())
        figures = [
            Figure(
                name="from nothing to a ready chart",
                conditions=f"nodes Ready after {ready:.1f} s",
                unit="s",
                values={"total": ready + installed},
                targets={"total": READY},
            )
        ]
        numbers = itertools.count()
        for node, other in zip(cluster.nodes, [*cluster.nodes[1:], cluster.nodes[0]], strict=True):
            figures += await first_pulls(cluster, node, other, numbers, rounds)
        figures.append(await rolling(cluster, least))
        return figures


def table(figures: list[Figure]) -> str:
    """Return the figures as a Markdown table."""
    head = ("measured", "conditions", "samples", "result", "bound", "verdict")
    rows = [
        (
            each.name,
            each.conditions,
            str(each.samples),
            ", ".join(
                f"{name} {_number(value)} {each.unit}".strip()
                for name, value in each.values.items()
            ),
            ", ".join(f"{_number(value)} {each.unit}".strip() for value in each.targets.values()),
            each.verdict,
        )
        for each in figures
    ]
    return aligned([head, *rows])


def _number(value: float) -> str:
    return f"{value:.0f}" if value == math.floor(value) else f"{value:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.kubernetes", description=__doc__
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        help="pulls of each kind on each node (default: %(default)s)",
    )
    parser.add_argument(
        "--pulls", type=int, default=PULLS, help="pulls in rolling restarts (default: %(default)s)"
    )
    options = parser.parse_args()
    if reason := reason_to_skip():
        sys.exit(f"bench-kubernetes: {reason}")
    before = conditions()
    measured = asyncio.run(run(options.rounds, options.pulls))
    print(
        "\n".join(
            [*(f"- {name}: {flat(value)}" for name, value in before.items()), "", table(measured)]
        )
    )
    sys.exit(any(each.is_over for each in measured))
