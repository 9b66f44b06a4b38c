"""Whether this node is cut off from all of its peers, or from many. Pure.

Isolation follows OpenZiti's rule (`warnWhenLeaderlessFor`), with peers in place of a leader: one
warning per episode, then one critical line, then one line when it is over. Time counts from the
start of the node, so a node that never had a peer warns too.

A node that is alone on purpose is not isolated. It has no source of peers, or a source that names
only this node, and all of its former peers said goodbye.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

KEPT = 100
"""Episodes kept."""

KNOWN_FOR = 600.0
"""Seconds for which a peer that went without a goodbye is expected back. The mesh redials it for
the same time."""

MIN_LOST = 2
"""Lost peers that a partition has at least: a single lost peer has probably died."""

SHARE = 1 / 3
"""Part of the known peers that a partition loses at least."""

MAX_PEERS = 10_000
"""Peers remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsolationThresholds:
    """Seconds without a peer until the warning, and until the critical line.

    A node that is alone counts as ready after `ready_when_alone` seconds, never if it is None.
    """

    warn: float
    critical: float
    ready_when_alone: float | None


class IsolationLevel(Enum):
    """The severity of an episode."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A time without a peer that lasted long enough to be logged.

    `began` and `ended` are Unix time; `ended` is None while the episode lasts.
    """

    began: float
    level: IsolationLevel
    seconds: float
    ended: float | None = None
    from_start: bool = False

    def as_record(self) -> dict[str, object]:
        return {
            "began": round(self.began, 3),
            "ended": None if self.ended is None else round(self.ended, 3),
            "seconds": round(self.seconds, 3),
            "level": self.level.value,
            "from_start": self.from_start,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Episode:
        """Read a record of `as_record`. Raises ValueError, TypeError or KeyError for others."""
        ended = record["ended"]
        return cls(
            began=float(str(record["began"])),
            ended=None if ended is None else float(str(ended)),
            seconds=float(str(record["seconds"])),
            level=IsolationLevel(record["level"]),
            from_start=record["from_start"] is True,
        )


class Isolation:
    """The isolation of one node.

    `warn` and `critical` are seconds without a peer; `now` is monotonic, `wall` Unix time.
    """

    def __init__(self, *, warn: float, critical: float, now: float) -> None:
        self._thresholds = {IsolationLevel.WARNING: warn, IsolationLevel.CRITICAL: critical}
        self._since = now  # the last time at which a peer was connected
        self._has_peers = False
        self._had_peers = False
        self._is_on_purpose = False
        self._reported: IsolationLevel | None = None

    def __repr__(self) -> str:
        state = "connected" if self._has_peers else "alone"
        return f"<Isolation {state} reported={self._reported}>"

    def time_since_peer(self, now: float) -> float:
        """Return the seconds for which no peer has been connected."""
        return 0.0 if self._has_peers else now - self._since

    def cut_off_since(self) -> float | None:
        """Return when the last peer was connected, or the start of the node.

        None if a peer is connected, or if no peer is expected.
        """
        return None if self._has_peers or self._is_on_purpose else self._since

    def observe(self, *, peers: int, is_expecting: bool, now: float, wall: float) -> Episode | None:
        """Record the number of connected peers; return an episode that has news.

        `is_expecting` is True if there ought to be peers. An episode is returned when it becomes a
        warning, when it becomes critical, and when it ends.
        """
        self._is_on_purpose = not peers and not is_expecting
        if peers or self._is_on_purpose:
            ended = self._end(now, wall)
            if peers:
                self._since, self._has_peers, self._had_peers = now, True, True
            else:
                self._has_peers = False
            return ended
        self._has_peers = False
        return self._raise_level(now, wall)

    def _end(self, now: float, wall: float) -> Episode | None:
        level, self._reported = self._reported, None
        return None if level is None else self._episode(level, now, wall, ended=wall)

    def _raise_level(self, now: float, wall: float) -> Episode | None:
        reached = [level for level, after in self._thresholds.items() if now - self._since >= after]
        level = reached[-1] if reached else None
        if level is None or level is self._reported:
            return None
        self._reported = level
        return self._episode(level, now, wall, ended=None)

    def _episode(
        self, level: IsolationLevel, now: float, wall: float, *, ended: float | None
    ) -> Episode:
        seconds = now - self._since
        return Episode(
            began=wall - seconds,
            level=level,
            seconds=seconds,
            ended=ended,
            from_start=not self._had_peers,
        )


class PeerTracker:
    """The peers known lately, and the connected ones. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._connected: frozenset[str] = frozenset()
        self.has_lost_all = False
        """True if no peer is left because peers went without a goodbye, until one is back."""

    def __repr__(self) -> str:
        return f"<PeerTracker {len(self._connected)} of {len(self._seen)} known are connected>"

    @property
    def known(self) -> int:
        """The number of peers known lately."""
        return len(self._seen)

    def meet(self, connected: Collection[str], *, now: float) -> None:
        """Record peers that connect while no missing peer counts as lost yet."""
        self._connected |= frozenset(connected)
        self._see(connected, now)

    def update(self, *, connected: Collection[str], goodbyes: Collection[str], now: float) -> None:
        """Record the connected peers, and the peers that said goodbye."""
        self._connected = frozenset(connected)
        self._see(connected, now)
        old = [peer for peer, at in self._seen.items() if now - at > KNOWN_FOR]
        for peer in {*old, *(frozenset(goodbyes) & self._seen.keys())} - self._connected:
            del self._seen[peer]
        self.has_lost_all = not self._connected and (self.has_lost_all or bool(self._seen))

    def lost(self) -> dict[str, float]:
        """Return the peers that went without a goodbye, with the time at which each was last seen.

        The peer that went first comes first.
        """
        gone = [(at, peer) for peer, at in self._seen.items() if peer not in self._connected]
        return {peer: at for at, peer in sorted(gone)}

    def partitioned_since(self) -> float | None:
        """Return when enough peers had gone for a partition, None if there is none."""
        needed = max(MIN_LOST, SHARE * len(self._seen))
        times = list(self.lost().values())
        return times[math.ceil(needed) - 1] if len(times) >= needed else None

    def _see(self, peers: Collection[str], now: float) -> None:
        for peer in peers:
            if peer in self._seen or len(self._seen) < MAX_PEERS:
                self._seen[peer] = now
