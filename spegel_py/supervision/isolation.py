"""When a node that is cut off says so: once per episode a warning, then a critical line, then that it is over. Pure.

OpenZiti's rule (`warnWhenLeaderlessFor`), with peers in place of a leader: time counts from the start of the node, so
that never having had a peer warns too. A node that is alone on purpose is not cut off: it has no source of peers (or
one that names only itself), and whoever it had said goodbye.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

KEPT = 100
"""Episodes kept."""


class Level(Enum):
    """How far an episode has come."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One stretch of time without a peer that lasted long enough to be told; Unix time, `ended` None while it lasts."""

    began: float
    level: Level
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
        """Read what `as_record` wrote; ValueError, TypeError or KeyError for anything else."""
        ended = record["ended"]
        return cls(
            began=float(str(record["began"])),
            ended=None if ended is None else float(str(ended)),
            seconds=float(str(record["seconds"])),
            level=Level(record["level"]),
            from_start=record["from_start"] is True,
        )


class Isolation:
    """The state of one node. `warn` and `critical` are seconds without a peer; `now` is monotonic, `wall` Unix time."""

    def __init__(self, *, warn: float, critical: float, now: float) -> None:
        self._thresholds = {Level.WARNING: warn, Level.CRITICAL: critical}
        self._since = now  # the last peer was seen then
        self._has_peers = False
        self._had_peers = False
        self._is_on_purpose = False
        self._told: Level | None = None

    def __repr__(self) -> str:
        return f"<Isolation {'connected' if self._has_peers else 'alone'} told={self._told}>"

    def time_since_peer(self, now: float) -> float:
        """Return for how many seconds no peer has been connected."""
        return 0.0 if self._has_peers else now - self._since

    def cut_off_since(self) -> float | None:
        """Return when the last peer was seen (or the start), None if a peer is there or none is expected."""
        return None if self._has_peers or self._is_on_purpose else self._since

    def observe(self, *, peers: int, is_expecting: bool, now: float, wall: float) -> Episode | None:
        """Take in how many peers are connected; return an episode when there is something new to tell of it.

        `is_expecting`: there ought to be peers. An episode is returned when it becomes a warning, when it becomes
        critical, and when it ends.
        """
        self._is_on_purpose = not peers and not is_expecting
        if peers or self._is_on_purpose:
            ended = self._ended(now, wall)
            if peers:
                self._since, self._has_peers, self._had_peers = now, True, True
            else:
                self._has_peers = False
            return ended
        self._has_peers = False
        return self._worse(now, wall)

    def _ended(self, now: float, wall: float) -> Episode | None:
        level, self._told = self._told, None
        return None if level is None else self._episode(level, now, wall, ended=wall)

    def _worse(self, now: float, wall: float) -> Episode | None:
        reached = [level for level, after in self._thresholds.items() if now - self._since >= after]
        level = reached[-1] if reached else None
        if level is None or level is self._told:
            return None
        self._told = level
        return self._episode(level, now, wall, ended=None)

    def _episode(self, level: Level, now: float, wall: float, *, ended: float | None) -> Episode:
        seconds = now - self._since
        return Episode(
            began=wall - seconds,
            level=level,
            seconds=seconds,
            ended=ended,
            from_start=not self._had_peers,
        )
