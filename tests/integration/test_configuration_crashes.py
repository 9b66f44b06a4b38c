"""Configuration and cleanup killed at every step, by processes that really die: the original is
never lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.host_trees import (
    MADE,
    Make,
    described,
    dies,
    fresh,
    inner,
    is_whole,
    quick,
    rich,
    steps,
    without_time,
    works,
)

pytestmark = pytest.mark.timeout(300)  # a thousand processes


@MADE
def test_configuration_may_die_at_any_step(seen: Path, make: Make) -> None:
    """Killed at each step and run again, configuration ends as without; cleanup then gives the
    original back.
    """
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    total = steps(configuration)
    configured = without_time(described(seen))
    cleanup(quick())
    for number in range(total):
        assert dies(configuration, number)
        is_whole(root)
        configuration(quick())
        assert without_time(described(seen)) == configured, number
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number


@MADE
def test_cleanup_after_a_configuration_that_died_gives_the_original_back(
    seen: Path, make: Make
) -> None:
    """Cleanup alone removes all remains of a killed configuration."""
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    number = 0
    while dies(configuration, number):
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number
        number += 1
    assert number > 5


@MADE
def test_cleanup_may_die_at_any_step(seen: Path, make: Make) -> None:
    """Killed at each step and run again, cleanup gives the original back; so it does after
    configuration once more.
    """
    root, before = fresh(seen, make)
    configuration, cleanup = works(root)
    configuration(quick())
    number = 0
    while dies(cleanup, number):
        is_whole(root)
        if number % 2:
            configuration(quick())
        cleanup(quick())
        assert inner(described(seen), root) == inner(before, root), number
        configuration(quick())
        number += 1
    assert number > 5


@settings(max_examples=15, deadline=None)
@given(runs=st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=6))
def test_any_sequence_of_runs_that_died_is_undone(
    tmp_path_factory: pytest.TempPathFactory, runs: Any
) -> None:
    """After any runs of either command, each killed somewhere or not, one whole cleanup gives the
    original back.
    """
    seen = tmp_path_factory.mktemp("runs")
    root, before = fresh(seen, rich)
    both = works(root)
    for is_cleanup, number in runs:
        dies(both[is_cleanup], number)
    both[1](quick())
    assert inner(described(seen), root) == inner(before, root)
