"""The books of one node, and what becomes of them when nodes come and go."""

from __future__ import annotations

from spegel_py.flight.messages import Ask, Follow, Lead, Note, Role, Wait
from spegel_py.flight.rendezvous import stewards
from spegel_py.flight.rules import Rules
from spegel_py.flight.steward import BOOKS, IDLE, Steward
from spegel_py.oci.digest import Digest

RULES = Rules()
MEMBERS = ["A", "B", "C"]


def of(name: str, members: list[str]) -> Digest:
    """A digest of which this one is the steward among these."""
    digests = (Digest.of(str(number).encode()) for number in range(1000))
    return next(digest for digest in digests if stewards(digest, members, 1) == [name])


def steward(name: str = "A", members: list[str] = MEMBERS) -> Steward:
    """One that has long been there."""
    made = Steward(own=name, now=0.0)
    made.set_members([member for member in members if member != name], 0.0)
    return made


def test_each_digest_has_a_book_of_its_own() -> None:
    """Who leads with one follows with another."""
    mine = steward()
    first, second = of("A", MEMBERS), Digest.of(b"other")
    assert isinstance(mine.answer("B", Ask(first), 10.0), Lead)
    assert isinstance(mine.answer("C", Ask(first), 10.0), Follow)
    assert isinstance(mine.answer("C", Ask(second), 20.0), Lead | Wait)


def test_a_node_that_is_gone_is_in_no_book() -> None:
    """Its followers are sent elsewhere at once."""
    mine, digest = steward(), of("A", MEMBERS)
    mine.answer("B", Ask(digest), 10.0)
    mine.set_members(["C"], 12.0)
    assert isinstance(mine.answer("C", Ask(digest), 12.0), Lead)


def test_who_becomes_the_steward_first_hears_what_is_in_flight() -> None:
    """After the steward before is gone nobody is sent upstream until those who take part had time to say so."""
    digest = of("B", MEMBERS)
    if stewards(digest, ["A", "C"], 1) != ["A"]:
        digest = next(
            each
            for number in range(1000)
            if stewards(each := Digest.of(str(number).encode()), MEMBERS, 2) == ["B", "A"]
        )
    mine = steward()
    mine.set_members(["C"], 10.0)
    assert isinstance(mine.answer("C", Ask(digest), 10.1), Wait)
    mine.answer("A", Note(digest, Role.LEAD, 5), 10.2)
    assert isinstance(mine.answer("C", Ask(digest), 10.2), Follow)


def test_who_was_the_steward_all_the_time_sends_upstream_at_once() -> None:
    """Another node's coming or going changes nothing for most digests."""
    mine = steward()
    mine.set_members(["C"], 10.0)
    assert isinstance(mine.answer("C", Ask(of("A", MEMBERS)), 10.1), Lead)


def test_a_node_that_has_just_started_may_know_nothing_yet() -> None:
    """It gives the others the time to tell it; alone it need not."""
    started = Steward(own="A", now=10.0)
    digest = of("A", MEMBERS)
    assert isinstance(started.answer("A", Ask(digest), 10.0), Lead)
    joined = Steward(own="A", now=10.0)
    joined.set_members(["B", "C"], 10.1)
    assert isinstance(joined.answer("B", Ask(digest), 10.2), Wait)


def test_who_is_asked_in_another_ones_place_waits_too() -> None:
    """The steward did not answer the asker, but may have sent somebody upstream before: who will turn here too."""
    mine, digest, pause = steward(), of("B", MEMBERS), RULES.stand_in(len(MEMBERS))
    assert pause > RULES.lead_renew + RULES.answer_within(len(MEMBERS))
    assert mine.answer("C", Ask(digest), 10.0) == Wait(pause)
    assert isinstance(mine.answer("C", Ask(digest), 10.0 + pause), Lead)


def test_who_stands_in_sends_those_that_know_holders_to_them_at_once() -> None:
    """That costs upstream nothing, whatever the steward knew."""
    assert isinstance(steward().answer("C", Ask(of("B", MEMBERS), held=1), 10.0), Lead)


def test_books_are_kept_within_bounds() -> None:
    """Of too many digests those spoken of last are kept, and empty books are thrown away."""
    mine = steward()
    for number in range(BOOKS + 10):
        mine.answer("B", Note(Digest.of(str(number).encode()), Role.LEAD, 1), 10.0)
    assert len(mine.books) == BOOKS
    for _ in range(IDLE):
        mine.answer("B", Note(of("A", MEMBERS), Role.GONE), 1000.0)
    assert len(mine.books) == 0
