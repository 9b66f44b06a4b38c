"""Whether a tag that a peer answered is believed, by the author of its word.

The author is the observer that signed it, else the peer that answered. A node that passes a tag on
is no author: it can neither make the tag younger nor count as a witness. Pure, but for the
functions that TagAuthors is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, StrEnum

from spegel_py.routing.tag_observation import TagObservation
from spegel_py.tools.bounded import BoundedDict

MAX_AHEAD = 900.0
"""Seconds by which an observation may be in the future: clocks of two nodes may differ by 15 min.

Its tag then counts as seen now, until this node's clock has caught up. An observation from further
ahead would stay young for longer than `--tag-ttl` says, and is refused."""


ROUNDING = 0.5
"""Seconds by which `Age` may be too large: it is a rounded number. A tag is to run out at the same
time on its observer and on the nodes that got it from there."""

GRACE = 600.0
"""Seconds for which a node counts as a member after its connection was lost.

A machine restarts within that time. A node that comes back keeps its id, if it has a data directory
that outlives it."""

SETTLED_AFTER = 60.0
"""Seconds after the start of this node from which it is connected to all others.

Before that, a node that it does not know counts as connected."""

MAX_REMEMBERED = 10_000
"""Nodes whose last connection is remembered: as many as a node connects to."""


class TagsFromPeers(StrEnum):
    """The authors that are believed: the values of `--tags-from-peers`."""

    ALL = "all"
    """Everybody's, those of Spegel's own nodes too, which sign nothing."""
    MEMBERS = "members"
    """Those of nodes with a cluster key; without keys, of connected nodes."""
    OFF = "off"
    """Nobody's: no peer is asked for a tag."""


class Standing(Enum):
    """The standing of a tag's author with this node."""

    OWN = "own"
    """This node itself."""
    MEMBER = "member"
    """It is connected, or was a short time ago, and is a member where there are keys."""
    CONNECTED = "connected"
    """It is connected without a key of the cluster."""
    GONE = "gone"
    """It is not connected: it was removed, replaced, or never was one of the nodes."""
    QUARANTINED = "quarantined"
    """It has sent this node wrong bytes."""


class Disbelief(StrEnum):
    """Why a tag is not believed, as the metric names it."""

    INVALID = "invalid"
    FUTURE = "future"
    QUARANTINED = "quarantined"
    CONTESTED = "contested"
    GONE = "gone"
    STRANGER = "stranger"
    PASSED_ON = "passed-on"
    WITNESSES = "witnesses"

    @property
    def text(self) -> str:
        """The reason as a clause."""
        return _TEXTS[self]


_TEXTS = {
    Disbelief.INVALID: "its observation is forged, or is that of another tag",
    Disbelief.FUTURE: "its observer's clock is more than 15 min ahead",
    Disbelief.QUARANTINED: "the node that says so has sent wrong bytes",
    Disbelief.CONTESTED: "other nodes contradict its observer",
    Disbelief.GONE: "its observer is not one of the nodes now",
    Disbelief.STRANGER: "the node that says so has no key of the cluster",
    Disbelief.PASSED_ON: "the peer got it from another one, and no observation says from where",
    Disbelief.WITNESSES: "too few nodes saw it at its registry (--tag-witnesses)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TagWord:
    """The word that came with a tag.

    Args:
        observation: the signed one, already verified; None if there is none.
        is_passed_on: True if the peer got the tag from a further peer, without an observation.
        author: the standing of the observer; without an observation, of the answering peer. A peer
            that answers now is not gone, whether it is connected or not.
        is_contested: other observers contradict the author about this tag.
    """

    observation: TagObservation | None = None
    is_passed_on: bool = False
    author: Standing
    is_contested: bool = False


def disbelief(
    word: TagWord, *, rule: TagsFromPeers, is_registry_away: bool, now: float
) -> Disbelief | None:
    """Return why a tag is not believed; None if it is.

    While the registry is away, nobody can give a better answer. Then also the word of a node that
    is gone counts, and a tag that was only passed on.
    """
    # Case 1: no circumstance makes the word good.
    if word.author is Standing.QUARANTINED:
        return Disbelief.QUARANTINED
    if word.is_contested:
        return Disbelief.CONTESTED
    if word.observation is not None and word.observation.seen > now + MAX_AHEAD:
        return Disbelief.FUTURE
    # Case 2: every word ends with its author.
    if word.author is Standing.GONE and not is_registry_away:
        return Disbelief.GONE
    # Case 3: with keys, the author has one.
    if rule is not TagsFromPeers.ALL and word.author is Standing.CONNECTED:
        return Disbelief.STRANGER
    # Case 4: hearsay. It would outlive its author from node to node.
    if word.is_passed_on and not is_registry_away:
        return Disbelief.PASSED_ON
    return None


def age_of(told: float | None, observation: TagObservation | None, now: float) -> float | None:
    """Return the seconds since a tag was seen at its registry, None if unknown.

    Args:
        told: the peer's own `Age`. It may make the tag older than the observation does, since
            seconds do not depend on clocks, but never younger.
        observation: the signed one; None if there is none.
        now: Unix time.
    """
    if observation is None:
        return told
    return max((told or 0.0) - ROUNDING, now - observation.seen, 0.0)


class TagAuthors:
    """Tells the standing of a node by its peer id.

    Args:
        own_id: this node's own peer id.
        connected: returns the ids of the peers that are connected now.
        keyed: returns the ids of connected peers with a cluster key; None if there are no keys.
        is_quarantined: returns True for a peer in quarantine at a monotonic time.
        started: monotonic time at which this node started.
    """

    def __init__(
        self,
        *,
        own_id: str,
        connected: Callable[[], Collection[str]],
        keyed: Callable[[], Collection[str]] | None = None,
        is_quarantined: Callable[[str, float], bool] = lambda peer, now: False,
        started: float = -math.inf,
    ) -> None:
        self._started = started
        self._own_id = own_id
        self._connected = connected
        self._keyed = keyed
        self._is_quarantined = is_quarantined
        self._last: BoundedDict[str, tuple[float, bool]] = BoundedDict(limit=MAX_REMEMBERED)

    def __repr__(self) -> str:
        return f"<TagAuthors {len(self._last)} known>"

    def look(self, now: float) -> None:
        """Record the peers that are connected at this monotonic time."""
        connected = self._connected()
        keyed = connected if self._keyed is None else set(self._keyed())
        for peer in connected:
            self._last[peer] = (now, peer in keyed)

    def standing(self, peer: str, now: float) -> Standing:
        """Return the standing of a node at this monotonic time."""
        if peer in ("", self._own_id):
            return Standing.OWN
        if self._is_quarantined(peer, now):
            return Standing.QUARANTINED
        if peer not in self._last:
            self.look(now)  # it may have connected just now
        known = self._last.get(peer)
        if known is None and now - self._started < SETTLED_AFTER:
            return Standing.CONNECTED
        if known is None or now - known[0] >= GRACE:
            return Standing.GONE
        _, is_keyed = known
        return Standing.MEMBER if is_keyed else Standing.CONNECTED
