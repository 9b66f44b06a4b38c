"""The benchmark of growing clusters in short: it is judged by counts and ratios, not by seconds."""

from __future__ import annotations

import shutil

import pytest

from tests.benchmarks.scale import rounds, whole_nodes
from tests.benchmarks.scale.plan import Size
from tests.support.containerd import CONTAINERD

MORE_DESCRIPTORS = 3
"""Connections between nodes for checks and requests, which come and go."""
THREAD_POOL = 6
"""Threads that a node starts when it first needs them, on two cores."""


async def test_routers_answer_rightly_through_all_rounds() -> None:
    """Joins, a third killed, a split and restarts: no lookup misses a holder or names a wrong one.

    The rounds cost no router a thread, and no descriptor beyond those of its connections. There are
    more routers than a peer names at a time, and yet a new member meets all.
    """
    size = Size(routers=24, members=3, per_process=7, keys=200, distinct=600, asked=30, calm=1.0)
    figures = {figure.name: figure for figure in await rounds.measure(size)}
    assert [name for name, figure in figures.items() if "not done" in figure.values] == []
    answers = figures["answers of all rounds"].values
    assert answers["lookups"] > 1_000
    assert (answers["missing"], answers["wrong"]) == (0, 0)
    assert "8 routers killed at once" in figures
    counts = [
        figure.values
        for name, figure in figures.items()
        if name.startswith("threads and descriptors")
    ]
    assert len({each["threads of a process"] for each in counts}) == 1
    beyond = [each["descriptors beyond connections"] for each in counts]
    assert max(beyond) <= beyond[0] + MORE_DESCRIPTORS


@pytest.mark.root
async def test_one_node_more_costs_a_node_one_descriptor_and_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the pool that serves files has as many threads as were needed so far."""
    if shutil.which(CONTAINERD) is None:
        pytest.skip(f"needs {CONTAINERD}")
    monkeypatch.setattr(whole_nodes, "SETTLE", 1.0)
    monkeypatch.setattr(whole_nodes, "BINARY", "")
    two, three = await whole_nodes.measure([2, 3], calm=1.0)
    assert abs(two.threads - three.threads) <= THREAD_POOL
    assert abs(two.descriptors - three.descriptors) <= MORE_DESCRIPTORS
