"""Which piece of a body which peer is asked for when several give it at once; pure: time is passed in.

Pieces are small and many, so that a peer ten times as slow as the others holds them up little: each takes the next
piece when it has given the one before. The client gets them in order, so those that came early are kept; the window
bounds how many.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

PIECE = 512 * 1024
"""Bytes of a piece: at 10 MB/s it takes 50 ms, against which a request's round trip of a few costs little."""

WINDOW = 24
"""Pieces under way or waiting for those before them, at most: 12 MiB of memory for each transfer."""

PATIENCE = 0.5
"""Seconds after which the piece that the client waits for is asked of a second peer too, if one has nothing else to
do: whoever needs longer for it sends less than 1 MB/s, or nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes `first` to `last` of the content, both included."""

    first: int
    last: int


class Plan:
    """Hands out the pieces of the bytes `first` to `last`, takes their data, and gives it back in order."""

    def __init__(self, *, first: int, last: int, piece: int = PIECE, window: int = WINDOW) -> None:
        self._last = last
        self._size = piece
        self._window = window
        self._head = first  # the first byte that was not given back yet
        self._fresh = first  # the first byte that nobody was asked for yet
        self._returned: set[Piece] = set()  # asked for in vain
        self._asked: dict[Piece, dict[Hashable, float]] = {}  # of whom, and since when
        self._ready: dict[int, bytes] = {}  # by first byte

    def __repr__(self) -> str:
        return f"<Plan at {self._head} of {self._last + 1}: {len(self._asked)} asked, {len(self._ready)} ready>"

    @property
    def is_done(self) -> bool:
        """Whether all data was given back."""
        return self._head > self._last

    def take(self, peer: Hashable, now: float) -> Piece | None:
        """Return what `peer`, which has nothing to do, is to be asked for; None while there is nothing."""
        piece = self._again() or self._next() or self._late(peer, now)
        if piece is not None:
            self._asked.setdefault(piece, {})[peer] = now
        return piece

    def put(self, piece: Piece, data: bytes) -> bool:
        """Take the data of a piece; False if another peer gave it before."""
        if self._asked.pop(piece, None) is None:
            return False
        self._ready[piece.first] = data
        return True

    def drop(self, peer: Hashable) -> None:
        """Let others be asked for what a peer was asked for and will not give."""
        for piece, peers in list(self._asked.items()):
            peers.pop(peer, None)
            if not peers:
                del self._asked[piece]
                self._returned.add(piece)

    def pop(self) -> bytes | None:
        """Return what comes next in order, None while it is not there."""
        data = self._ready.pop(self._head, None)
        if data is not None:
            self._head += len(data)
        return data

    def _again(self) -> Piece | None:
        if not self._returned:
            return None
        piece = min(self._returned, key=lambda each: each.first)
        self._returned.remove(piece)
        return piece

    def _next(self) -> Piece | None:
        if self._fresh > self._last or self._fresh >= self._head + self._window * self._size:
            return None
        piece = Piece(self._fresh, min(self._fresh + self._size - 1, self._last))
        self._fresh = piece.last + 1
        return piece

    def _late(self, peer: Hashable, now: float) -> Piece | None:
        """Return the piece that the client waits for, if one other peer was asked for it and takes too long."""
        for piece, peers in self._asked.items():
            if piece.first == self._head:
                is_late = (
                    len(peers) == 1 and peer not in peers and now - min(peers.values()) >= PATIENCE
                )
                return piece if is_late else None
        return None
