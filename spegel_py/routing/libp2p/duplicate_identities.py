"""Nodes that share one identity (a copied disk, a baked image): each of them hides the other from the cluster.

Two facts tell: an address answers with this node's own identity, but as another process; and a peer is connected
twice, as two processes. A process is known by its Noise key, which it makes when it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger(__name__)

REMEMBERED = 150.0
"""Seconds after which a twin that was not met again is forgotten: addresses are dialled once a minute at least."""
PATIENCE = 10.0
"""Seconds for which a peer is connected as two processes until it counts: one that has restarted looks like that,
until its old connections have ended."""
MAX_TWINS = 16
"""Twins remembered at a time."""


class DuplicateIdentities:
    """The twins that were met lately; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._met: dict[str, tuple[float, str]] = {}

    def __repr__(self) -> str:
        return f"<Twins {sorted(self._met)}>"

    def met(self, subject: str, detail: str) -> None:
        """Remember a twin by an address or a peer's id, with a sentence that says where each of the two is."""
        if subject not in self.current():
            log.warning(
                "two nodes share one identity: remove private.key from the data directory of one, and restart it",
                subject=subject,
                detail=detail,
            )
        if subject in self._met or len(self._met) < MAX_TWINS:
            self._met[subject] = (self._clock(), detail)

    def current(self) -> Mapping[str, str]:
        """Return those that were met lately, each with its sentence."""
        oldest = self._clock() - REMEMBERED
        self._met = {
            subject: (at, detail)
            for subject, (at, detail) in list(self._met.items())
            if at >= oldest
        }
        return {subject: detail for subject, (_, detail) in self._met.items()}
