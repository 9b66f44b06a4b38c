"""How many transfers are served to peers at a time: one peer with many layers must not shut out the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from spegel_py.errors import Busy
from spegel_py.telemetry.metrics import Limit, Metrics

_TRANSFERS: Mapping[Limit, str] = {
    "overall": "transfers to peers",
    "peer": "transfers to you",
    "in_flight": "transfers of what is still being pulled",
}


class Limits:
    """Admits transfers to other nodes, at most `per_peer` to one address and `overall` to all; 0 is no limit.

    Who is refused asks another peer, which is better than to share a link with everybody else. Blobs that still grow
    here take as long as this node's own pull of them; they have `growing` slots of their own, so that they leave room
    for what is whole.
    """

    def __init__(self, *, per_peer: int, overall: int, growing: int = 0, metrics: Metrics) -> None:
        self._per_peer = per_peer
        self._overall = overall
        self._slots = growing
        self._growing = 0
        self._metrics = metrics
        self._under_way: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Limits {self._under_way.total()} transfers to {len(self._under_way)} peers>"

    @property
    def under_way(self) -> Mapping[str, int]:
        """How many transfers go to which address now."""
        return self._under_way

    @contextmanager
    def admit(self, address: str, *, grows: bool = False) -> Iterator[None]:
        """Count a transfer to a peer while the context is open. Raises Busy where there is no room for it."""
        if grows:
            self._check("in_flight", self._growing, self._slots)
        else:
            self._check("overall", self._under_way.total() - self._growing, self._overall)
            self._check("peer", self._under_way[address], self._per_peer)
        self._count(address, 1, grows=grows)
        try:
            yield
        finally:
            self._count(address, -1, grows=grows)

    def _check(self, limit: Limit, under_way: int, most: int) -> None:
        if most and under_way >= most:
            self._metrics.refused(limit)
            raise Busy(f"{most} {_TRANSFERS[limit]} are under way")

    def _count(self, address: str, change: int, *, grows: bool) -> None:
        self._growing += change if grows else 0
        self._under_way[address] += change
        if not self._under_way[address]:
            del self._under_way[address]
        self._show()

    def _show(self) -> None:
        self._metrics.transfers.set(self._under_way.total())
