"""The verdicts and the page of the chaos suite."""

from __future__ import annotations

import pytest

from tests.faults.chaos.cluster import parse_traffic
from tests.faults.chaos.misses import judge
from tests.faults.chaos.pulls import ChaosPull
from tests.faults.chaos.report import ALLOWANCE, ChaosOutcome, markdown
from tests.faults.chaos.rows import Expected
from tests.faults.pulls import DEADLINE

GOOD = ChaosPull(seconds=3.0, succeeded=True, content="right")
LOST = ChaosPull(seconds=1.0, succeeded=False, errors=("unexpected commit digest",))
AGAIN = ChaosPull(seconds=4.0, succeeded=True, errors=("UNAVAILABLE",), content="right")
WRONG = ChaosPull(seconds=3.0, succeeded=False, errors=("cut",), content="wrong")
PART = ChaosPull(seconds=3.0, succeeded=True)
LATE = ChaosPull(seconds=3.1 + ALLOWANCE, succeeded=True, content="right")
UNEXPLAINED = ChaosPull(
    seconds=3.0, succeeded=True, content="right", complaints=("no miss explains /v2/a/blobs/x",)
)
HUNG = ChaosPull(seconds=DEADLINE, succeeded=False, errors=("DEADLINE_EXCEEDED",))


def outcome(
    *pulls: ChaosPull, expected: Expected = Expected.SUCCEED, error: str = "", left_out: str = ""
) -> ChaosOutcome:
    return ChaosOutcome(
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
        pytest.param(
            outcome(WRONG, expected=Expected.FAIL),
            ["wrong content"],
            id="failed, and left wrong content",
        ),
        pytest.param(outcome(LATE, GOOD), ["5.1 s late"], id="late"),
        pytest.param(outcome(UNEXPLAINED), ["a miss has no or a wrong reason"], id="unexplained"),
        pytest.param(outcome(HUNG), ["a pull hung", "a pull failed", "57.0 s late"], id="hung"),
        pytest.param(outcome(AGAIN), ["a pull was tried again"], id="tried again"),
        pytest.param(outcome(AGAIN, expected=Expected.RETRIED), [], id="tried again, as expected"),
        pytest.param(outcome(LOST, expected=Expected.FAIL), [], id="failed, as expected"),
        pytest.param(
            outcome(GOOD, expected=Expected.FAIL), ["a pull succeeded"], id="succeeded unexpectedly"
        ),
        pytest.param(
            outcome(error="over before the fault"), ["over before the fault"], id="not played"
        ),
        pytest.param(outcome(left_out="no loop devices here"), [], id="left out"),
    ],
)
def test_a_row_says_which_bounds_it_missed(given: ChaosOutcome, missed: list[str]) -> None:
    """A row misses its bounds by pulls that fail, hang, end late or leave wrong content."""
    assert given.missed == missed


def test_a_page_has_a_line_for_each_row_and_the_reasons_below() -> None:
    """The page shows each row's counts and verdict, and the errors of pulls below the table."""
    page = markdown({"cores": 2}, [outcome(GOOD, LOST)])
    [line] = [line for line in page.splitlines() if line.startswith("| peer killed")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:9] == ["peer killed", "1", "2", "1", "1", "2.0", "3.0", "3.0", "1"]
    assert cells[-1] == "MISSED: a pull failed"
    assert "- peer killed: unexpected commit digest" in page


def test_traffic_is_read_from_the_switch_s_side() -> None:
    """The switch receives on a port the bytes that the machine at the port sends."""
    counters = "head\nhead\n  p-n1: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n"
    traffic = parse_traffic(counters)
    assert traffic.sent == {"p-n1": 100}
    assert traffic.received == {"p-n1": 200}


# Misses


def decision(reason: str | None, **fields: object) -> dict[str, object]:
    """Return a record as in `/debug/decisions`: by default a 404 without a request to a peer."""
    return {
        "verdict": "miss" if reason else "hit",
        "reason": reason,
        "text": "why",
        "key": "sha256:aa",
        "digest": None,
        "status": 404,
        "local": "absent",
        "source": None,
        "peers_found": 0,
        "attempts": [],
        "bytes": {"local": 0, "peer": 0},
        "length": 0,
    } | fields


STALLED = [{"addr": "10.0.0.1:5000", "outcome": "stalled"}]
CUT = {
    "status": 200,
    "source": "peer",
    "length": 9,
    "bytes": {"local": 0, "peer": 4},
    "attempts": STALLED,
}
WHOLE = CUT | {"bytes": {"local": 0, "peer": 9}}


@pytest.mark.parametrize(
    ("record", "is_right"),
    [
        pytest.param(decision("not_found"), True, id="nobody"),
        pytest.param(
            decision("not_found", peers_found=2), False, id="nobody, though somebody was found"
        ),
        pytest.param(decision("shunned", peers_found=2), True, id="shunned"),
        pytest.param(decision("shunned"), False, id="shunned, though nobody was found"),
        pytest.param(decision("failed", peers_found=1, attempts=STALLED), True, id="failed"),
        pytest.param(
            decision("failed", peers_found=1), False, id="failed, though nobody was asked"
        ),
        pytest.param(decision("cut", **CUT), True, id="cut"),
        pytest.param(decision("cut", **WHOLE), False, id="cut, though all was sent"),
        pytest.param(decision("client_gone", **CUT), True, id="gone"),
        pytest.param(decision("client_gone", **WHOLE), False, id="gone, though it had all"),
        pytest.param(decision("store_away", local="away"), True, id="away"),
        pytest.param(decision("store_away"), False, id="away, though it answered"),
    ],
)
def test_a_reason_has_to_fit_its_record(record: dict[str, object], is_right: bool) -> None:
    """A reason that the fault allows is still wrong if the record contradicts it."""
    reason = str(record["reason"])
    wrong = judge([record], allowed=[reason], fetched=[], was_away=False)
    assert wrong == ([] if is_right else [f"{reason} does not fit its record: why"])
    assert judge([record], allowed=[], fetched=[], was_away=False) == [
        f"{reason} is no reason here: why"
    ]


def test_what_came_from_the_registry_needs_a_miss() -> None:
    """A miss matches by digest or by tag; a node that was away needs no miss."""
    hit, miss = decision(None), decision("not_found", key="r.io/a:1", digest="sha256:bb")
    paths = ["/v2/a/manifests/1?ns=r.io", "/v2/a/manifests/sha256:bb"]
    assert judge([hit, miss], allowed=["not_found"], fetched=paths, was_away=False) == []
    unseen = "/v2/a/blobs/sha256:aa"
    assert judge([hit, miss], allowed=["not_found"], fetched=[unseen], was_away=False) == [
        f"no miss explains {unseen}"
    ]
    assert judge([hit], allowed=[], fetched=[unseen], was_away=True) == []
