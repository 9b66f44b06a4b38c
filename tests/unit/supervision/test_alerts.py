"""The book of alerts: one open for each condition and subject, with ids that never come twice."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.supervision.alerts import HOLD, MAX_OPEN, Alert, AlertBook, latest_states
from spegel_py.supervision.conditions import (
    CONDITIONS,
    CONTAINERD_AWAY,
    ISOLATED,
    PEER_LOST,
    Condition,
    Observation,
    Tier,
)

WALL = 1_764_028_800.0  # 2025-11-25T00:00:00Z


def seen(condition: Condition, since: float = 0.0, subject: str = "") -> Observation:
    return Observation(
        condition=condition, since=since, source="test", subject=subject, detail="why"
    )


def look(book: AlertBook, now: float, *observations: Observation) -> list[Alert]:
    return book.observe(observations, now=now, wall=WALL + now)


def test_every_condition_can_be_seen_in_time() -> None:
    """An alert's patience and one look a second stay within what its tier allows."""
    assert [each.name for each in CONDITIONS.values() if each.patience + 1 > each.tier.detect] == []


def test_an_alert_says_what_is_wrong_and_since_when() -> None:
    """It has tier, condition, subject, source, and how long the condition went unseen."""
    [alert] = look(AlertBook(), 7.0, seen(CONTAINERD_AWAY, since=5.0, subject="x"))
    assert alert == Alert(
        id="ALERT-20251125-001",
        tier=Tier.P1,
        condition="containerd-away",
        subject="x",
        source="test",
        detail="why",
        opened=WALL + 7.0,
        detection=2.0,
    )


def test_one_alert_for_each_condition_and_subject() -> None:
    """What is seen again opens nothing; another subject does."""
    book = AlertBook()
    assert len(look(book, 0.0, seen(PEER_LOST, subject="a"))) == 1
    assert len(look(book, 1.0, seen(PEER_LOST, subject="a"), seen(PEER_LOST, subject="b"))) == 1
    assert [alert.subject for alert in book.open()] == ["a", "b"]


def test_a_condition_may_be_short_lived() -> None:
    """Where a condition has patience, nothing is opened before."""
    book = AlertBook()
    assert look(book, ISOLATED.patience - 0.1, seen(ISOLATED)) == []
    assert len(look(book, ISOLATED.patience, seen(ISOLATED))) == 1


def test_an_alert_is_closed_when_its_condition_stays_away() -> None:
    """Its recovery is the time until the condition was gone, not until that was certain."""
    book = AlertBook()
    look(book, 0.0, seen(CONTAINERD_AWAY))
    look(book, 9.0, seen(CONTAINERD_AWAY))
    assert look(book, 10.0) == []
    assert not book.persists(book.open()[0])
    [alert] = look(book, 10.0 + HOLD)
    assert (alert.closed, alert.recovery) == (WALL + 10.0 + HOLD, 10.0)
    assert book.open() == []


def test_a_condition_that_is_back_meanwhile_keeps_its_alert() -> None:
    """The alert stays open, and notes that it flapped."""
    book = AlertBook()
    look(book, 0.0, seen(CONTAINERD_AWAY))
    look(book, 1.0)
    assert look(book, 1.0 + HOLD / 2, seen(CONTAINERD_AWAY)) == []
    [alert] = book.open()
    assert (alert.flaps, book.persists(alert)) == (1, True)


@pytest.mark.parametrize("period", [2, 6, 30, 120])
def test_flapping_does_not_fill_the_disk(period: int) -> None:
    """A condition that comes and goes for a day, at whatever pace, makes at most eight records an
    hour and a few.
    """
    book, records = AlertBook(), 0
    for second in range(86_400):
        observations = (
            [seen(CONTAINERD_AWAY, since=float(second))] if second % period < period / 2 else []
        )
        records += len(look(book, float(second), *observations))
    assert records <= 24 * 8 + 20


def test_ids_go_on_after_a_restart_and_begin_anew_each_day() -> None:
    """Numbers are those of the day, in UTC, above the highest that was written."""
    book = AlertBook()
    book.recall([_alert("ALERT-20251125-041"), _alert("ALERT-20251124-900"), _alert("not an id")])
    [one] = look(book, 0.0, seen(PEER_LOST, subject="a"))
    [two] = look(
        book, 86_400.0, seen(PEER_LOST, subject="a"), seen(PEER_LOST, since=86_400.0, subject="b")
    )
    assert (one.id, two.id) == ("ALERT-20251125-042", "ALERT-20251126-001")


def test_a_thousandth_alert_has_an_id_too() -> None:
    """Beyond 999 the number gets a digit more, and is recalled as well."""
    book = AlertBook()
    book.recall([_alert("ALERT-20251125-999")])
    [alert] = look(book, 0.0, seen(PEER_LOST))
    later = AlertBook()
    later.recall([alert])
    assert (alert.id, look(later, 0.0, seen(PEER_LOST))[0].id) == (
        "ALERT-20251125-1000",
        "ALERT-20251125-1001",
    )


def test_open_alerts_are_bounded() -> None:
    """A thousand things at once open MAX_OPEN alerts."""
    book = AlertBook()
    look(book, 0.0, *(seen(PEER_LOST, subject=str(number)) for number in range(1000)))
    assert len(book.open()) == MAX_OPEN


def test_an_alert_survives_being_written() -> None:
    """What is folded from records is the last state of each; foreign records are passed over."""
    book = AlertBook()
    [opened] = look(book, 1.0, seen(CONTAINERD_AWAY))
    escalated = book.escalate(opened)
    look(book, 2.0)
    [closed] = look(book, 10.0)
    assert closed.escalated
    records: list[Mapping[str, object]] = [
        opened.as_record(),
        {"lost": 3},
        escalated.as_record(),
        {"id": 1},
    ]
    assert latest_states(records) == {opened.id: escalated}
    assert latest_states([*records, closed.as_record()]) == {opened.id: closed}


@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.sets(st.sampled_from("abc"))), max_size=80))
def test_whatever_flaps_the_book_is_consistent(steps: list[tuple[float, set[str]]]) -> None:
    """Ids are unique and rise, every closed alert was open, and none is closed while its condition
    is seen.
    """
    book, now, ids, is_open = AlertBook(), 0.0, [], set[str]()
    for pause, subjects in steps:
        now += pause
        for alert in look(
            book, now, *(seen(PEER_LOST, since=now, subject=subject) for subject in subjects)
        ):
            if alert.is_open:
                ids.append(alert.id)
                assert alert.subject in subjects
                assert alert.subject not in is_open
                is_open.add(alert.subject)
            else:
                assert alert.subject not in subjects
                is_open.remove(alert.subject)
        assert {alert.subject for alert in book.open()} == is_open
    assert ids == sorted(set(ids), key=lambda each: int(each.rpartition("-")[2]))
    assert all(re.fullmatch(r"ALERT-\d{8}-\d{3,}", each) for each in ids)


def _alert(name: str) -> Alert:
    return Alert(
        id=name,
        tier=Tier.P2,
        condition="c",
        subject="",
        source="test",
        detail="",
        opened=0.0,
        detection=0.0,
    )
