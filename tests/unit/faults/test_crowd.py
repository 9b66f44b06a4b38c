"""The verdicts of crowd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.crowd.report import DEADLINE, CrowdOutcome, CrowdPull

GOOD = CrowdPull(node="n1", seconds=5.0, succeeded=True, content="right", is_excused=False)
FAILED = replace(GOOD, succeeded=False, errors=("UNAVAILABLE",), content="incomplete")


@pytest.mark.parametrize(
    ("pull", "missed"),
    [
        pytest.param(GOOD, [], id="all is well"),
        pytest.param(FAILED, ["n1 failed: UNAVAILABLE"], id="failed"),
        pytest.param(replace(FAILED, is_excused=True), [], id="excused"),
        pytest.param(replace(FAILED, seconds=DEADLINE), ["n1 hung"], id="hung"),
        pytest.param(replace(GOOD, content="wrong"), ["n1 holds wrong bytes"], id="wrong"),
    ],
)
def test_a_row_says_which_pulls_went_wrong(pull: CrowdPull, missed: list[str]) -> None:
    """A pull may fail only if the fault broke the machine's own containerd or upstream."""
    assert CrowdOutcome(row="nothing", pulls=(pull,), copies=1.0, most=1.03).missed == missed


def test_a_row_bounds_the_registry_and_the_remains() -> None:
    """Too many copies and anything left open are misses."""
    outcome = CrowdOutcome(row="nothing", copies=1.5, most=1.03, left_open=2)
    assert outcome.missed == [
        "the registry sent 1.50 copies",
        "2 files, watches or participations were left open",
    ]
