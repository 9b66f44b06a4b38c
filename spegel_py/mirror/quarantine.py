"""Peers that sent wrong bytes are asked for nothing for a while. Pure: times are passed in."""

from __future__ import annotations

from dataclasses import dataclass

from spegel_py.tools.bounded import BoundedDict

FIRST_QUARANTINE = 600.0
"""Seconds of a peer's first quarantine.

That is long enough to spare every pull of a rollout, and for people to look into it.
"""

MAX_QUARANTINE = 86_400.0
"""Seconds of the longest quarantine: a disk or memory module is replaced within a day, or never."""

MAX_OFFENDERS = 1024
"""Peers whose quarantine is remembered: the last offenders."""


@dataclass(frozen=True, slots=True)
class _QuarantinePeriod:
    seconds: float
    until: float


class Quarantine:
    """Peers that sent wrong bytes: not asked for a time that doubles with each offence.

    A peer is known by its id: a new address makes it no better.
    """

    def __init__(self) -> None:
        self._periods: BoundedDict[str, _QuarantinePeriod] = BoundedDict(limit=MAX_OFFENDERS)

    def __repr__(self) -> str:
        return f"<Quarantine of {len(self._periods)} offenders>"

    def add(self, peer: str, now: float) -> float:
        """Put a peer into quarantine; return for how many seconds.

        A peer that is in quarantine already stays there as it is: several pulls may notice one
        offence at the same time.
        """
        last = self._periods.get(peer)
        if last is not None and now < last.until:
            return last.until - now
        seconds = min(last.seconds * 2, MAX_QUARANTINE) if last else FIRST_QUARANTINE
        self._periods[peer] = _QuarantinePeriod(seconds, now + seconds)
        return seconds

    def holds(self, peer: str, now: float) -> bool:
        """Return True if a peer is in quarantine now."""
        period = self._periods.get(peer)
        return period is not None and now < period.until

    def count(self, now: float) -> int:
        """Return the number of peers in quarantine now."""
        return sum(now < period.until for period in self._periods.values())
