"""The failure detectors of a whole cluster on a virtual clock, by counts and ratios."""

from __future__ import annotations

import pytest

from tests.benchmarks import swim

KNOWN = 10.0
"""Seconds in which a frozen node must be known everywhere."""


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_frozen_nodes_are_known_everywhere(count: int) -> None:
    """With 5 % loss and slow nodes, every node drops each frozen one in time, and no other."""
    figures = swim.frozen(count)
    assert figures.missed == 0
    assert figures.quantile(1.0) < KNOWN
    assert figures.dropped == 0
    assert figures.wrong == 0


@pytest.mark.parametrize("count", [10, 50])
def test_the_halves_of_a_split_cluster_let_go_of_each_other_and_meet_again(count: int) -> None:
    """No node drops one of its own half, and none is in doubt after the halves met again."""
    figures = swim.divided(count)
    assert figures.missed == 0
    assert figures.quantile(1.0) < KNOWN
    assert (figures.wrong, figures.dropped) == (0, 0)


def test_a_third_that_restarts_at_once_is_not_taken_for_dead() -> None:
    """A node that starts is busy for two seconds, and answers late."""
    figures = swim.restarted(100)
    assert figures.dropped == 0


def test_a_node_at_rest_sends_the_same_in_a_small_and_in_a_large_cluster() -> None:
    """One ping and one answer a second; loss and slow nodes add a twentieth at most."""
    small, large = swim.calm(3), swim.calm(200)
    assert 1.9 <= small.messages <= 2.1
    assert large.messages <= 1.05 * small.messages
    assert (large.wrong, large.dropped) == (0, 0)
