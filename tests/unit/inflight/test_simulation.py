"""Whole clusters in virtual time: the sum of the coordinator's decisions."""

from __future__ import annotations

import pytest

from tests.benchmarks.flight.simulation import Scene, simulate


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_fetches_once(seed: int) -> None:
    """A hundred nodes that start together fetch one blob from upstream.

    That is hardly slower than one node's pull.
    """
    result = simulate(Scene(nodes=100, seed=seed))
    assert (result.leaders, result.alone) == (1, 0)
    assert result.upstream == pytest.approx(1.0)
    assert result.makespan < 1.3 * result.scene.alone


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_that_loses_nodes_fetches_little_more(seed: int) -> None:
    """A tenth of 300 nodes dies, leader and coordinator first, and as many join.

    All living nodes get the blob.
    """
    result = simulate(Scene(nodes=300, churn=0.1, seed=seed))
    assert result.done == result.living == 300
    assert result.upstream < 1.2


def test_everybody_gets_on_where_upstream_is_quicker_than_the_nodes() -> None:
    """With a registry as quick as all nodes together none waits for ever.

    It is still asked once.
    """
    result = simulate(Scene(nodes=50, upstream=100e6, upload=12.5e6, spread=0.1))
    assert result.done == 50
    assert result.upstream == pytest.approx(1.0)
