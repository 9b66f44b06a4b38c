"""What a node does for others: it keeps the books of the digests of which it is the steward. Pure.

Nothing of it is on a disk or told to another steward: who takes part says what it does again and again, to whoever is
the steward then. A book that is opened after the steward changed sends nobody upstream until that was told.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection

from spegel_py.flight.book import Book
from spegel_py.flight.messages import Ask, Look, Note, Noted, Question, Reply, Role, Shape
from spegel_py.flight.rendezvous import stewards
from spegel_py.flight.rules import Rules
from spegel_py.oci.digest import Digest

BOOKS = 4096
"""Books kept at most, of those spoken of last: a few dozen images pulled at once."""

IDLE = 256
"""Asks and notes between two looks for books that are empty."""


class Steward:
    """The books of the node `own`; members are peer ids, times monotonic seconds."""

    def __init__(self, *, own: str, now: float, rules: Rules | None = None) -> None:
        self._own = own
        self._rules = rules or Rules()
        self._books: OrderedDict[Digest, Book] = OrderedDict()
        self._members: set[str] = set()
        self._changed: dict[str, float] = {own: now}  # who came or went, and when: of late only
        self._spoken = 0

    def __repr__(self) -> str:
        return f"<Steward of {len(self._books)} digests among {len(self._members) + 1} nodes>"

    @property
    def books(self) -> dict[Digest, Book]:
        """The books, for people to look at."""
        return dict(self._books)

    def set_members(self, members: Collection[str], now: float) -> None:
        """Note who takes part, besides this node; those that are gone are out of all books."""
        gone, came = self._members - set(members), set(members) - self._members
        self._members = set(members)
        self._changed.update(dict.fromkeys(gone | came, now))
        for name in gone:
            for book in self._books.values():
                book.lost(name)

    def answer(self, name: str, question: Question, now: float) -> Reply:
        """Answer what the node `name` asks or says; it may be so new that it is not among the members yet."""
        self._sweep(now)
        match question:
            case Ask(digest):
                return self._book(digest, now).ask(name, question, now)
            case Note(digest, Role.GONE) if digest not in self._books:
                return Noted(self._rules.waiting)
            case Note(digest):
                return Noted(self._book(digest, now).note(name, question, now))
            case Look(digest):
                return self._books[digest].shape(now) if digest in self._books else Shape()

    def _book(self, digest: Digest, now: float) -> Book:
        book = self._books.get(digest)
        if book is None:
            book = self._books[digest] = Book(rules=self._rules, settled=self._settled(digest, now))
            if len(self._books) > BOOKS:
                self._books.popitem(last=False)
        self._books.move_to_end(digest)
        return book

    def _settled(self, digest: Digest, now: float) -> float:
        """Return from when on this node knows what is in flight: at once, if it was the steward all the time."""
        self._changed = {
            name: at for name, at in self._changed.items() if at + self._rules.grace > now
        }
        everybody = self._members | {self._own}
        before = everybody.symmetric_difference(self._changed)
        was_steward = not self._members or stewards(digest, before, 1) == [self._own]
        is_steward = stewards(digest, everybody, 1) == [self._own]
        if not is_steward:
            return now + self._rules.stand_in(len(everybody))
        return -math.inf if was_steward else now + self._rules.grace

    def _sweep(self, now: float) -> None:
        self._spoken += 1
        if self._spoken % IDLE:
            return
        for digest, book in list(self._books.items()):
            book.expire(now)
            if not len(book):
                del self._books[digest]
