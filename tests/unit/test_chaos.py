"""What the chaos suite makes of what it saw."""

from __future__ import annotations

import pytest

from tests.chaos.field import parse_traffic
from tests.chaos.pulls import DEADLINE, Pull
from tests.chaos.report import ALLOWANCE, Outcome, markdown
from tests.chaos.rows import Expected

GOOD = Pull(seconds=3.0, succeeded=True, content="right")
LOST = Pull(seconds=1.0, succeeded=False, errors=("unexpected commit digest",))
AGAIN = Pull(seconds=4.0, succeeded=True, errors=("UNAVAILABLE",), content="right")
WRONG = Pull(seconds=3.0, succeeded=False, errors=("cut",), content="wrong")
PART = Pull(seconds=3.0, succeeded=True)
LATE = Pull(seconds=3.1 + ALLOWANCE, succeeded=True, content="right")
HUNG = Pull(seconds=DEADLINE, succeeded=False, errors=("DEADLINE_EXCEEDED",))


def outcome(*pulls: Pull, expected: Expected = Expected.SUCCEED, error: str = "", left_out: str = "") -> Outcome:
    return Outcome(
        row="peer killed",
        at_once=1,
        pulls=pulls,
        undisturbed=(3.0,) * len(pulls),
        expected=expected,
        error=error,
        left_out=left_out,
    )


@pytest.mark.parametrize(
    ("given", "missed"),
    [
        pytest.param(outcome(GOOD, GOOD), [], id="all is well"),
        pytest.param(outcome(GOOD, LOST), ["a pull failed"], id="one failed"),
        pytest.param(outcome(PART), ["incomplete content"], id="incomplete"),
        pytest.param(outcome(WRONG, expected=Expected.FAIL), ["wrong content"], id="failed, and left wrong content"),
        pytest.param(outcome(LATE, GOOD), ["5.1 s late"], id="late"),
        pytest.param(outcome(HUNG), ["a pull hung", "a pull failed", "57.0 s late"], id="hung"),
        pytest.param(outcome(AGAIN), ["a pull was tried again"], id="tried again"),
        pytest.param(outcome(AGAIN, expected=Expected.RETRIED), [], id="tried again, as expected"),
        pytest.param(outcome(LOST, expected=Expected.FAIL), [], id="failed, as expected"),
        pytest.param(outcome(GOOD, expected=Expected.FAIL), ["a pull succeeded"], id="succeeded unexpectedly"),
        pytest.param(outcome(error="over before the fault"), ["over before the fault"], id="not played"),
        pytest.param(outcome(left_out="no loop devices here"), [], id="left out"),
    ],
)
def test_a_row_says_which_bounds_it_missed(given: Outcome, missed: list[str]) -> None:
    """A row misses its bounds by pulls that fail, hang, come late or hold wrong content, unless that is expected."""
    assert given.missed == missed


def test_a_page_has_a_line_for_each_row_and_the_reasons_below() -> None:
    """The page shows each row's counts and verdict, and below the table why pulls failed."""
    page = markdown({"cores": 2}, [outcome(GOOD, LOST)])
    [line] = [line for line in page.splitlines() if line.startswith("| peer killed")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:9] == ["peer killed", "1", "2", "1", "1", "2.0", "3.0", "3.0", "1"]
    assert cells[-1] == "MISSED: a pull failed"
    assert "- peer killed: unexpected commit digest" in page


def test_traffic_is_read_from_the_switch_s_side() -> None:
    """What the switch receives on a port is what the machine at it sent."""
    counters = "head\nhead\n  p-n1: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n"
    traffic = parse_traffic(counters)
    assert traffic.sent == {"p-n1": 100}
    assert traffic.received == {"p-n1": 200}
