"""What each peer gave this node: names of ours. Few peers have a label of their own, and one that is gone loses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Summary

from spegel_py.outcomes import AttemptOutcome

MAX_PEERS = 64
"""Peers that get a label of their own, the first that are asked; the others are counted together as `other`."""

KEPT = 120.0
"""Seconds for which a peer that is gone is still shown after it was last asked: two scrapes see how it ended."""

OTHER = "other"

FAILURES = tuple(outcome for outcome in AttemptOutcome if outcome.is_failure)
"""Outcomes that are shown as 0 from a peer's first request on: Prometheus sees no increase in the first value of a
series, so the first failure would be seen by nobody."""


@dataclass(slots=True)
class _Shown:
    ids: set[str] = field(default_factory=set)  # an address may come back with another identity
    outcomes: set[AttemptOutcome] = field(default_factory=set)
    asked: float = 0.0


class PeerMetrics:
    """The meters of each peer, in a node's registry; a peer is called by the address of its registry.

    `clock` is monotonic. Not thread-safe: requests end, and scrapes come, on the event loop.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._shown: dict[str, _Shown] = {}
        self._requests = Counter(
            "spegel_peer_requests",
            "Requests made to a peer, by outcome: ok, or why there was no, or not all of an, answer.",
            ["peer", "outcome"],
            registry=registry,
        )
        self._first_byte = Summary(
            "spegel_peer_first_byte_seconds",
            "Time that a peer took from being asked to the head of its answer.",
            ["peer"],
            registry=registry,
        )
        self._received = Counter(
            "spegel_peer_received_bytes",
            "Body bytes that a peer gave.",
            ["peer"],
            registry=registry,
        )

    def __repr__(self) -> str:
        return f"<PeerMetrics of {len(self._shown)} peers>"

    def attempted(
        self,
        *,
        peer_id: str,
        address: str,
        outcome: AttemptOutcome,
        first_byte: float | None,
        count: int,
    ) -> None:
        """Count one request that has ended, after `count` bytes; `first_byte` is None where no answer came."""
        label = self._label(peer_id, address, outcome)
        self._requests.labels(label, outcome).inc()
        self._received.labels(label).inc(count)
        if first_byte is not None:
            self._first_byte.labels(label).observe(first_byte)

    def forget(self, *, but: Collection[str]) -> None:
        """Take away the series of all peers but those with these ids, once they were asked nothing for a while."""
        oldest = self._clock() - KEPT
        gone = [
            label
            for label, shown in self._shown.items()
            if shown.asked <= oldest and shown.ids.isdisjoint(but)
        ]
        for label in gone:
            shown = self._shown.pop(label)
            for outcome in shown.outcomes:
                self._requests.remove(label, outcome)
            self._received.remove(label)
            self._first_byte.remove(label)

    def _label(self, peer_id: str, address: str, outcome: AttemptOutcome) -> str:
        shown = self._shown.get(address)
        if shown is None:
            if len(self._shown) >= MAX_PEERS:
                return OTHER
            shown = self._shown[address] = _Shown(outcomes=set(FAILURES))
            for failure in FAILURES:
                self._requests.labels(address, failure)
        shown.ids.add(peer_id)
        shown.outcomes.add(outcome)
        shown.asked = self._clock()
        return address
