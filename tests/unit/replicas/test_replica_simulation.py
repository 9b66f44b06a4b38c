"""A cluster's floor in virtual time, with the decisions of real nodes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import pytest
import structlog

from tests.benchmarks.replicas.simulation import SimCluster

NODES, IMAGES, FLOOR = 60, 100, 3


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the requests of all nodes out of the output."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.configure(**before)


async def test_a_cluster_reaches_its_floor_and_restores_it() -> None:
    """With few messages, no copy too many, and none where nothing is missing."""
    cluster = SimCluster(nodes=NODES, images=IMAGES, floor=FLOOR)
    half, whole = await cluster.run(1800.0)
    assert half <= 65.0
    assert whole <= 600.0
    assert cluster.surplus() <= 1
    assert cluster.messages <= 15 * NODES
    messages = cluster.messages
    await cluster.run(600.0, until_settled=False)
    assert cluster.messages == messages
    cluster.kill(cluster.rng.sample(range(NODES), NODES // 10))
    _, whole = await cluster.run(1800.0)
    assert whole < math.inf
    assert cluster.surplus() <= 1
    assert cluster.messages - messages <= 2 * NODES


async def test_a_zone_that_is_away_for_a_quarter_of_an_hour_moves_little() -> None:
    """The nodes wait for it."""
    cluster = SimCluster(nodes=NODES, images=IMAGES, floor=FLOOR)
    await cluster.run(1800.0)
    moved = cluster.moved
    zone = list(range(0, NODES, 3))
    cluster.kill(zone)
    await cluster.run(890.0, until_settled=False)
    cluster.revive(zone)
    await cluster.run(120.0, until_settled=False)
    assert cluster.moved - moved <= 0.1 * moved
    assert cluster.low() == 0


async def test_a_floor_of_one_moves_nothing() -> None:
    """Each image is at a node already."""
    cluster = SimCluster(nodes=NODES, images=IMAGES, floor=1)
    await cluster.run(600.0)
    assert (cluster.low(), cluster.moved, cluster.messages) == (0, 0.0, 0)


async def test_a_zone_that_dies_takes_no_image_with_it() -> None:
    """Replicas are never all in one zone, and nothing moves while the zone may be back."""
    cluster = SimCluster(nodes=NODES, images=IMAGES, floor=2, zones=3)
    _, whole = await cluster.run(1800.0)
    assert whole <= 900.0
    assert cluster.surplus() <= 1
    await cluster.run(60.0, until_settled=False)
    assert cluster.in_one_zone() == 0
    moved = cluster.moved
    zone = list(range(0, NODES, 3))
    cluster.kill(zone)
    assert cluster.lost() == 0
    await cluster.run(900.0, until_settled=False)
    assert cluster.moved == moved
    cluster.revive(zone)
    await cluster.run(300.0, until_settled=False)
    assert (cluster.moved, cluster.low(), cluster.in_one_zone()) == (moved, 0, 0)


async def test_a_restart_of_all_nodes_in_turn_moves_nothing() -> None:
    """The replica of a lost node counts in its zone for a while."""
    cluster = SimCluster(nodes=NODES, images=IMAGES, floor=2, zones=3)
    await cluster.run(1800.0)
    moved = cluster.moved
    for first in range(0, NODES, 6):
        some = list(range(first, first + 6))
        cluster.kill(some)
        await cluster.run(20.0, until_settled=False)
        cluster.revive(some)
        await cluster.run(10.0, until_settled=False)
    assert cluster.moved == moved
