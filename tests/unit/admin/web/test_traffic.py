"""What plots and table read from the decision records."""

from __future__ import annotations

from typing import Any

import pytest

from spegel_py.admin.web.traffic import TrafficRow, by_peer, series
from spegel_py.outcomes import ContentSource


def record(**given: Any) -> dict[str, Any]:
    """Return a hit from a peer, but for what is given."""
    return {
        "at": 100.0,
        "verdict": "hit",
        "source": "peer",
        "ms": 1000.0,
        "bytes": {"local": 0, "peer": 600},
        "attempts": [],
        "client": "runtime",
    } | given


def attempt(peer: str, outcome: str, count: int | None = 0) -> dict[str, Any]:
    return {"peer": peer, "outcome": outcome, "bytes": count}


def test_a_peer_is_told_what_it_gave_and_where_it_failed() -> None:
    """One that has it no more, is busy or was overtaken has not failed; bytes of a broken answer
    count too.
    """
    attempts = [
        attempt("a", "stalled", 200),
        attempt("b", "ok", 400),
        attempt("c", "not_found"),
        attempt("c", "abandoned", None),
    ]
    found = by_peer(
        [
            TrafficRow.of(record(attempts=attempts)),
            TrafficRow.of(record(attempts=[attempt("b", "ok", 1)])),
        ]
    )
    assert {peer: (each.asked, each.failed, each.bytes) for peer, each in found.items()} == {
        "a": (1, 1, 200),
        "b": (2, 0, 401),
        "c": (2, 0, 0),
    }


def test_bytes_are_spread_over_the_time_that_they_took() -> None:
    """Half of a body that was sent across the edge of two bins is in each, and the request in the
    first.
    """
    bins = series([TrafficRow.of(record(at=105.0, ms=10_000.0))], now=119.0, width=10.0, count=3)
    assert [one.begin for one in bins] == [90.0, 100.0, 110.0]
    assert [one.bytes[ContentSource.PEER] for one in bins] == pytest.approx([0, 300, 300])
    assert [one.requests[ContentSource.PEER] for one in bins] == [0, 1, 0]


def test_what_lies_outside_of_the_plot_is_left_out() -> None:
    """Of a body that began before it the rest is shown, of what came later nothing; all of that is
    no error.
    """
    rows = [
        TrafficRow.of(record(at=80.0, ms=20_000.0)),
        TrafficRow.of(record(at=500.0)),
        TrafficRow.of(record(at=1.0)),
    ]
    bins = series(rows, now=109.0, width=10.0, count=2)
    assert [one.bytes[ContentSource.PEER] for one in bins] == pytest.approx([300, 0])
    assert [sum(one.requests.values()) for one in bins] == [0, 0]


def test_an_answer_in_no_time_is_shown() -> None:
    """A body that took less than the clock tells is in one bin, with all of its bytes."""
    bins = series([TrafficRow.of(record(at=100.0, ms=0.0))], now=101.0, width=10.0, count=1)
    assert bins[0].bytes[ContentSource.PEER] == pytest.approx(600)


def test_a_miss_counts_for_the_registry_and_its_bytes_for_who_sent_them() -> None:
    """What was cut short is no hit, though a peer's bytes came."""
    bins = series([TrafficRow.of(record(verdict="miss"))], now=101.0, width=10.0, count=1)
    assert bins[0].requests == {"local": 0, "peer": 0, "none": 1}
    assert bins[0].bytes[ContentSource.PEER] == pytest.approx(600)
    assert bins[0].hit_rate == 0


def test_what_people_measure_is_traffic_but_not_in_the_hit_rate() -> None:
    """Its bytes are drawn; its miss is not the runtime's."""
    rows = [TrafficRow.of(record(client="measure", verdict="miss", ms=0.0))]
    [drawn] = series(rows, now=100.0, width=10.0, count=1)
    assert drawn.hit_rate is None
    assert sum(drawn.bytes.values()) == pytest.approx(600)


def test_a_time_without_requests_has_no_hit_rate() -> None:
    """It is neither good nor bad."""
    assert series([], now=100.0, width=10.0, count=1)[0].hit_rate is None
