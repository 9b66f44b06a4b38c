"""The choice among the peers of one pull: no I/O, no clock, no randomness of its own."""

from __future__ import annotations

from random import Random

from spegel_py.mirror.scores import AttemptResult, Scores
from spegel_py.outcomes import AttemptOutcome
from spegel_py.routing.base import Peer


class PeerSelector:
    """Decides which peer one pull asks next. Times are monotonic seconds.

    A parent named by the coordinator comes first. Until its attempt has ended no other peer is
    asked: the parent may have to wait for the content itself, and the holders are to be spared. It
    is asked whatever is known about it, and its outcome changes no score: in a chain the node that
    stalls is seldom the one at fault, and the coordinator judges that.

    Every other peer is picked at random, in proportion to its weight (see scores). Untrusted peers
    wait until all peers were offered, and are picked only if there is no trusted one: then all
    peers may be well, and only the checks be wrong.
    """

    def __init__(self, *, key: str, scores: Scores, random: Random) -> None:
        self._key = key
        self._scores = scores
        self._random = random
        self._offered: set[Peer] = set()
        self._waiting: list[Peer] = []
        self._is_complete = False
        self._named_parent: Peer | None = None
        self._parent_stalls: dict[Peer, float] = {}
        self._parents_asked: set[Peer] = set()
        self._parents_under_way: set[Peer] = set()

    def __repr__(self) -> str:
        return (
            f"<PeerSelector of {self._key}: {len(self._waiting)} of {len(self._offered)} "
            f"peers left, parent {self._named_parent}>"
        )

    def offer(self, peer: Peer) -> None:
        """Add a peer that has the content; a peer offered twice is one peer."""
        if peer not in self._offered:
            self._offered.add(peer)
            self._waiting.append(peer)

    def complete(self) -> None:
        """Record that no more peers will be offered."""
        self._is_complete = True

    def name_parent(self, peer: Peer, *, stall: float) -> None:
        """Make this peer the next one; it may be silent for `stall` seconds."""
        self._parent_stalls[peer] = stall
        self._named_parent = peer

    @property
    def has_named_parent(self) -> bool:
        """Whether a named parent was not asked yet."""
        return self._named_parent is not None

    def parent_stall(self, peer: Peer) -> float | None:
        """Return the seconds for which a parent may be silent; None for any other peer."""
        return self._parent_stalls.get(peer)

    def was_parent(self, peer: Peer) -> bool:
        """Return True if the peer was asked as a parent."""
        return peer in self._parents_asked

    def pick(self, now: float) -> Peer | None:
        """Return the peer to ask next, None while there is none.

        The attempt's outcome must be recorded. A peer whose attempt was abandoned may be picked
        again, any other peer is picked once.
        """
        if (parent := self._named_parent) is not None:
            self._named_parent = None
            self._parents_asked.add(parent)
            self._parents_under_way.add(parent)
            return parent
        if self._parents_under_way or not (choice := self._choice(now)):
            return None
        weights = [self._scores.weight(peer, now) * trust for peer, trust in choice.items()]
        [peer] = self._random.choices(list(choice), weights)
        self._waiting.remove(peer)
        self._scores.begin(peer)
        return peer

    def has_more(self, now: float) -> bool:
        """Return True if `pick` would return a peer."""
        if self._named_parent is not None:
            return True
        return not self._parents_under_way and bool(self._choice(now))

    def record(self, peer: Peer, result: AttemptResult, now: float) -> None:
        """Record how the attempt at a picked peer ended."""
        if peer in self._parents_under_way:
            self._parents_under_way.discard(peer)
            return
        self._scores.end(peer, result, now)
        if result.outcome is AttemptOutcome.ABANDONED:
            self._waiting.append(peer)

    def _choice(self, now: float) -> dict[Peer, float]:
        """Return the peers that may be picked, with their trust; 1 for all if none is trusted."""
        offered = [
            peer for peer in self._offered if not self._scores.is_shunned(self._key, peer, now)
        ]
        trusted = {peer: trust for peer in offered if (trust := self._scores.trust(peer, now)) > 0}
        if not trusted and self._is_complete:
            trusted = dict.fromkeys(offered, 1.0)
        return {peer: trusted[peer] for peer in self._waiting if peer in trusted}
