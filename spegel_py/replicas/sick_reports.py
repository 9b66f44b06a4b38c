"""Peers' messages that they expect this node to fail. Pure; times are monotonic seconds."""

from __future__ import annotations

import threading

REPORTERS, WITHIN = 2, 300.0
"""Peers that must expect the failure, within so many seconds. One peer may be wrong: its own link
may be slow."""

REST = 600.0
"""Seconds between the beginnings of two drains for this cause."""

MAX_REPORTERS = 256
"""Peers whose messages are remembered."""


class SickReports:
    """The messages of the last WITHIN seconds. They come in any thread."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, str]] = {}
        self._began: float | None = None
        self._is_on = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SickReports of {len(self._heard)} peers, on={self._is_on}>"

    def add(self, peer: str, why: str, now: float) -> None:
        """Record a peer's message."""
        with self._lock:
            self._heard.pop(peer, None)
            self._heard[peer] = now, why
            if len(self._heard) > MAX_REPORTERS:
                del self._heard[next(iter(self._heard))]

    def reason(self, now: float) -> str:
        """Return why this node drains; empty if too few peers expect it to fail."""
        with self._lock:
            self._heard = {p: one for p, one in self._heard.items() if now - one[0] <= WITHIN}
            recent = list(self._heard.values())
        if len(recent) < REPORTERS:
            self._is_on = False
            return ""
        if not self._is_on:
            if self._began is not None and now - self._began < REST:
                return ""
            self._is_on, self._began = True, now
        return f"{len(recent)} nodes predict that it fails: {recent[-1][1]}"
