"""Whether so many nodes were lost lately that repairs wait. Pure; times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Collection

BRAKE_SHARE = 0.20
"""Share of the nodes of the last BRAKE_TIME that may be lost before repairs wait.

A zone or a switch is most often back in minutes, and its images with it (Ceph: 25 %,
`mon_osd_min_in_ratio`)."""

BRAKE_TIME = 1800.0
"""Seconds for which a lost node is remembered, and for which repairs wait at most."""


class LostMembers:
    """The nodes that were connected in the last BRAKE_TIME."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<LostMembers of {len(self._seen)}>"

    def is_braked(self, connected: Collection[str], now: float) -> bool:
        """Return True if more than BRAKE_SHARE of the nodes, and more than two, are lost."""
        self._seen |= dict.fromkeys(connected, now)
        self._seen = {node: at for node, at in self._seen.items() if now - at <= BRAKE_TIME}
        lost = len(self._seen.keys() - set(connected))
        return lost > max(2.0, BRAKE_SHARE * len(self._seen))
