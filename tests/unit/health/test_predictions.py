"""Predictions against outcomes: each is counted once."""

from __future__ import annotations

from spegel_py.health.predictions import (
    GRACE,
    PATIENCE,
    REMEMBERED,
    REST,
    PredictionOutcome,
    Predictions,
)


def foretold(lead: float = 5.0) -> Predictions:
    predictions = Predictions()
    assert predictions.predict("a", reason="slow", lead=lead, now=100.0)
    return predictions


def test_a_failure_that_was_foretold_is_true_with_its_lead() -> None:
    """The lead is what there really was, and the reason is the prediction's."""
    outcome = foretold().failed("a", reason="dead", now=107.0)
    assert (outcome.outcome, outcome.lead, outcome.reason) == (PredictionOutcome.TRUE, 7.0, "slow")


def test_a_prediction_by_silence_is_marked() -> None:
    predictions = foretold()
    predictions.predict("b", reason="silent", lead=3.0, now=100.0, is_silence=True)
    found = {peer: one.is_silence for peer, one in predictions.open().items()}
    assert found == {"a": False, "b": True}


def test_a_failure_that_nobody_foretold_is_missed() -> None:
    """It has no lead, and its own reason."""
    outcome = foretold().failed("b", reason="dead", now=107.0)
    assert (outcome.outcome, outcome.lead, outcome.reason) == (
        PredictionOutcome.MISSED,
        None,
        "dead",
    )


def test_what_does_not_come_is_a_false_alarm_once() -> None:
    """A prediction stays open for twice its lead and ten seconds; afterwards a failure is a new
    one."""
    predictions = foretold()
    over = 100.0 + PATIENCE * 5.0 + GRACE
    assert predictions.overdue(over - 0.1) == []
    [outcome] = predictions.overdue(over)
    assert (outcome.peer, outcome.outcome) == ("a", PredictionOutcome.FALSE)
    assert predictions.overdue(over) == []
    assert predictions.failed("a", reason="dead", now=over).outcome is PredictionOutcome.MISSED


def test_a_peer_has_one_prediction_at_a_time() -> None:
    """No second prediction is made while one is open; after a false alarm there is a rest."""
    predictions = foretold()
    assert not predictions.predict("a", reason="slow", lead=4.0, now=101.0)
    over = 100.0 + PATIENCE * 5.0 + GRACE
    predictions.overdue(over)
    assert not predictions.predict("a", reason="slow", lead=5.0, now=over + REST - 1)
    assert predictions.predict("a", reason="slow", lead=5.0, now=over + REST)


def test_who_leaves_in_good_order_proves_nothing() -> None:
    """A goodbye ends a prediction without an outcome."""
    predictions = foretold()
    predictions.left("a")
    assert predictions.overdue(1e9) == []
    assert predictions.open() == {}


def test_the_memory_of_false_alarms_is_bounded() -> None:
    """Only the last peers are kept from a new prediction."""
    predictions = Predictions()
    for number in range(REMEMBERED + 1):
        predictions.predict(str(number), reason="slow", lead=1.0, now=0.0)
        predictions.overdue(100.0)
    assert predictions.predict("0", reason="slow", lead=1.0, now=101.0)
    assert not predictions.predict("1", reason="slow", lead=1.0, now=101.0)


def test_what_is_foretold_can_be_asked_for() -> None:
    """Until it came, did not come, or its peer has left."""
    predictions = Predictions()
    predictions.predict("a", reason="it slows down", lead=30.0, now=0.0)
    predictions.predict("b", reason="it fails more and more", lead=10.0, now=0.0)
    predictions.left("b")
    [(peer, prediction)] = predictions.open().items()
    assert (peer, prediction.lead) == ("a", 30.0)
    assert str(prediction) == "it slows down; predicted 30 s ahead"
