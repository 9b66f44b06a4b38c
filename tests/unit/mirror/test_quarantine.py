"""Quarantined peers, and the length of the quarantine."""

from __future__ import annotations

from spegel_py.mirror.quarantine import FIRST_QUARANTINE, MAX_OFFENDERS, MAX_QUARANTINE, Quarantine


def test_a_quarantine_ends_and_the_next_is_twice_as_long() -> None:
    """Ten minutes, then twenty, up to a day."""
    quarantine, now, lengths = Quarantine(), 0.0, list[float]()
    for _ in range(12):
        lengths.append(quarantine.add("a", now))
        assert quarantine.holds("a", now + lengths[-1] - 1)
        now += lengths[-1]
        assert not quarantine.holds("a", now)
    assert lengths[:3] == [FIRST_QUARANTINE, 2 * FIRST_QUARANTINE, 4 * FIRST_QUARANTINE]
    assert lengths[-1] == MAX_QUARANTINE


def test_what_several_pulls_find_out_at_once_is_one_offence() -> None:
    """A peer that is in quarantine already is not punished again."""
    quarantine = Quarantine()
    quarantine.add("a", 0.0)
    assert quarantine.add("a", 1.0) == FIRST_QUARANTINE - 1
    assert not quarantine.holds("a", FIRST_QUARANTINE)


def test_others_are_not_held() -> None:
    """Only the offender is excluded, and counted."""
    quarantine = Quarantine()
    quarantine.add("a", 0.0)
    assert not quarantine.holds("b", 0.0)
    assert (quarantine.count(0.0), quarantine.count(FIRST_QUARANTINE)) == (1, 0)


def test_offenders_are_forgotten_beyond_a_limit() -> None:
    """Invented peers cannot fill the memory."""
    quarantine = Quarantine()
    for number in range(MAX_OFFENDERS + 1):
        quarantine.add(str(number), 0.0)
    assert quarantine.count(0.0) == MAX_OFFENDERS
    assert not quarantine.holds("0", 0.0)
