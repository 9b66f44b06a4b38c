"""The pure parts of the benchmark of growing clusters: sizes, keys, judged answers, figures."""

from __future__ import annotations

import pytest

from tests.benchmarks.scale import plot, virtual_time
from tests.benchmarks.scale.plan import Answers, Size, expected_of, holders, keys_of, sample_of
from tests.benchmarks.scale.whole_nodes import OURS, SPEGEL, Weight, figures


def test_members_have_a_process_each_unless_the_mesh_is_full() -> None:
    """Every router is in one process, and the members come first."""
    size = Size(routers=50, members=3, per_process=20)
    assert size.groups() == [
        range(1),
        range(1, 2),
        range(2, 3),
        range(3, 23),
        range(23, 43),
        range(43, 50),
    ]
    assert Size(routers=6, members=6, per_process=4).groups() == [range(4), range(4, 6)]
    with pytest.raises(ValueError, match="members"):
        Size(routers=2, members=3)


def test_routers_share_half_of_their_keys() -> None:
    """The others are of their own choice, the same in every process, and within the bound."""
    size = Size(routers=3, members=3, keys=100, distinct=500)
    sets = [set(keys_of(router, size)) for router in range(3)]
    assert all(len(each) == 100 and each == set(keys_of(n, size)) for n, each in enumerate(sets))
    assert set(range(50)) <= sets[0] & sets[1] & sets[2]
    assert sets[0] != sets[1]
    assert max(set.union(*sets)) < 500
    held = holders(size, [0, 2])
    assert held[0] == {0, 2}
    assert expected_of(0, 2, held, {0, 1, 2}) == {0}
    assert expected_of(0, 2, held, {1, 2}) == set()
    assert set(sample_of(1, size, sorted(held))) <= set(held)


def test_answers_are_judged_by_the_routers_that_can_be_reached() -> None:
    """A router that restarts may be named; nobody is missed who could not be named."""
    answers = Answers()
    answers.judge([1, 2], {1, 2, 3}, seconds=0.1)
    answers.judge([], set(), seconds=0.1)
    answers.judge([], {4}, restarting=4, seconds=0.1)
    answers.judge([4], {4}, restarting=4, seconds=0.1)
    assert (answers.lookups, answers.missing, answers.wrong) == (4, 0, 0)
    answers.judge([], {1}, seconds=0.1)
    answers.judge([9], {1}, seconds=0.1)
    assert (answers.missing, answers.wrong) == (1, 1)


def weight(candidate: str, *, rss: float, idle: float) -> Weight:
    return Weight(
        candidate=candidate,
        nodes=10,
        rss=rss,
        most_rss=rss,
        pss=rss / 2,
        idle=idle,
        most_idle=idle,
        cpu=1.0,
        ready=2.0,
        met=3.0,
        threads=16.0,
        descriptors=30.0,
    )


def test_ours_is_set_beside_spegels() -> None:
    """The ratios have targets, and Spegel's own figures have none."""
    ours, theirs = weight(OURS, rss=90.0, idle=0.3), weight(SPEGEL, rss=40.0, idle=0.25)
    found = {figure.name: figure for figure in figures([ours, theirs])}
    assert found[f"{OURS}: memory"].is_over
    assert not found[f"{OURS}: idle CPU"].is_over
    assert found[f"{SPEGEL}: memory"].verdict == ""
    ratio = found[f"{OURS} ÷ {SPEGEL}"]
    assert ratio.values["RSS"] == pytest.approx(2.25)
    assert ratio.is_over
    drawn = plot.svg({"spegel-py": "1", "cores": 2, "time": "2026-01-01"}, [ours, theirs])
    assert drawn.count("<rect") == 1 + 2 + 6


def test_a_simulated_row_is_a_figure() -> None:
    """Nobody may be dropped wrongly, nor stay; a scenario without a fault has no seconds."""
    row = {
        "scenario": "calm",
        "nodes": 5000,
        "seconds": None,
        "missed": 0,
        "dropped": 1,
        "messages": 2.5,
    }
    assert virtual_time.figure_of(row).is_over
    frozen = virtual_time.figure_of(row | {"seconds": [1.0, 2.0, 3.0], "dropped": 0})
    assert not frozen.is_over
    assert frozen.values["max s"] == 3.0
