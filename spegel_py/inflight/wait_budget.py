"""Bounds how long coordinators may make this node wait for one digest. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spegel_py.tools.backoff import doubled

FIRST_PAUSE = 0.02
"""Shortest time in seconds between the first two requests; it doubles up to LATER_PAUSE."""

LATER_PAUSE = 0.5
"""Shortest time in seconds between two later requests.

A coordinator that always answers "wait 0" is asked a few times in the first second, and twice in
each later second.
"""


class WaitBudget:
    """The waits for one digest, remembered `until` this monotonic time in seconds."""

    def __init__(self, *, until: float) -> None:
        self.until = until
        self._asked = 0
        self._spent: dict[str, _Spent] = {}

    def __repr__(self) -> str:
        return f"<WaitBudget {self._spent}, {self._asked} answers>"

    def next_pause(self, seconds: float) -> float:
        """Return the seconds to pause when a coordinator answered to wait for `seconds`."""
        least = doubled(FIRST_PAUSE, self._asked, most=LATER_PAUSE)
        self._asked += 1
        return max(seconds, least)

    def spend(self, coordinator: str, pause: float, now: float, *, most: float) -> bool:
        """Add a pause to the coordinator's account and return True; False if it exceeds `most`.

        Pulls that wait at the same time share one wait.
        """
        spent = self._spent.setdefault(coordinator, _Spent())
        more = max(0.0, now + pause - max(now, spent.end))
        if spent.seconds + more > most:
            return False
        spent.seconds, spent.end = spent.seconds + more, max(spent.end, now + pause)
        return True


@dataclass(slots=True)
class _Spent:
    """Seconds of waiting caused by a coordinator, and the monotonic time when they end."""

    seconds: float = 0.0
    end: float = -math.inf
