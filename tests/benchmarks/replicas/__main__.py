"""Prints how a cluster gets and restores its floor: `python -m tests.benchmarks.replicas`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import time

import structlog

from tests.benchmarks.replicas.simulation import RATE_IN, SimCluster

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

RESTARTED = 20
"""Shares of the cluster that restart one after the other."""


async def _measure(nodes: int, images: int, floor: int, zones: int, seed: int) -> None:
    cluster = SimCluster(nodes=nodes, images=images, floor=floor, zones=zones, seed=seed)
    print(f"{nodes} nodes in {zones} zones, {images} images, floor {floor}, seed {seed}")
    print(
        "| event | half after | all after | the last image takes | GB moved | messages a node "
        "| copies too many | in one zone | lost |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    await _row(cluster, "start from nothing", 3600.0)
    dead = cluster.rng.sample(range(nodes), nodes // 10)
    cluster.kill(dead)
    await _row(cluster, "a tenth dies", 3600.0)
    cluster.revive(dead)
    await _row(cluster, "it is back after that", 4500.0, until_settled=False)
    zone = list(range(0, nodes, zones or 3))
    cluster.kill(zone)
    await _row(cluster, "a third is away for 15 min", 900.0, until_settled=False)
    cluster.revive(zone)
    await _row(cluster, "it is back", 4500.0, until_settled=False)
    await _restart(cluster)
    await _row(cluster, "after a restart of all in turn", 300.0, until_settled=False)
    cluster.kill(zone)
    await _row(cluster, "a third dies", 7200.0)


async def _restart(cluster: SimCluster) -> None:
    """Restart all nodes, a twentieth at a time, for 20 s each."""
    moved = cluster.moved
    for first in range(RESTARTED):
        some = list(range(first, len(cluster.nodes), RESTARTED))
        cluster.kill(some)
        await cluster.run(20.0, until_settled=False)
        cluster.revive(some)
        await cluster.run(10.0, until_settled=False)
    print(f"| a restart of all in turn | | | | {(cluster.moved - moved) / 1e9:.1f} | | | | |")


async def _row(
    cluster: SimCluster, event: str, seconds: float, *, until_settled: bool = True
) -> None:
    messages, moved, began = cluster.messages, cluster.moved, time.monotonic()
    cluster.last = 0
    half, whole = await cluster.run(seconds, until_settled=until_settled)
    sent = (cluster.messages - messages) / len(cluster.nodes)
    print(
        f"| {event} | {half:.0f} s | {whole:.0f} s | {cluster.last / RATE_IN:.0f} s "
        f"| {(cluster.moved - moved) / 1e9:.1f} | {sent:.1f} | {cluster.surplus()} "
        f"| {cluster.in_one_zone()} | {cluster.lost()} | <!-- {time.monotonic() - began:.0f} s -->",
        flush=True,
    )


def main() -> None:
    """Run the simulation that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.replicas")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--floor", type=int, default=3)
    parser.add_argument("--zones", type=int, default=3, help="0: nodes without a zone")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(_measure(options.nodes, options.images, options.floor, options.zones, options.seed))


if __name__ == "__main__":
    main()
