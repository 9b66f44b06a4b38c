"""How long stewards may make this node wait for one digest, and how often it asks again. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST = 0.02
"""Seconds between the first two questions at least; doubled with each question up to LEAST_LATER."""

LEAST_LATER = 0.5
"""Seconds between two later questions at least: a steward that always says "wait 0" is asked a few
times in the first second, and twice in each one after that."""


class Waiting:
    """The waits for one digest, remembered `until` this monotonic time in seconds."""

    def __init__(self, *, until: float) -> None:
        self.until = until
        self._asked = 0
        self._waits: dict[str, _Waits] = {}

    def __repr__(self) -> str:
        return f"<Waiting {self._waits}, {self._asked} answers>"

    def pause(self, seconds: float) -> float:
        """Return after how many seconds to ask again where a steward said to wait for `seconds`."""
        least = min(LEAST * (1 << min(self._asked, 10)), LEAST_LATER)
        self._asked += 1
        return max(seconds, least)

    def allow(self, steward: str, pause: float, now: float, *, most: float) -> bool:
        """Count a pause that a steward asks for, unless its pauses would exceed `most` seconds.

        Return True if it was counted, so that it is to be made. Pulls that wait at the same time
        wait once.
        """
        waits = self._waits.setdefault(steward, _Waits())
        more = max(0.0, now + pause - max(now, waits.end))
        if waits.seconds + more > most:
            return False
        waits.seconds, waits.end = waits.seconds + more, max(waits.end, now + pause)
        return True


@dataclass(slots=True)
class _Waits:
    """Seconds that one steward asked for in all, and the monotonic time at which they end."""

    seconds: float = 0.0
    end: float = -math.inf
