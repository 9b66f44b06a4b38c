"""How many transfers are served to peers at a time: one peer with many layers must not shut out the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from spegel_py.errors import Busy
from spegel_py.telemetry.metrics import Metrics


class Limits:
    """Admits transfers to other nodes, at most `per_peer` to one address and `overall` to all; 0 is no limit.

    Who is refused asks another peer, which is better than to share a link with everybody else.
    """

    def __init__(self, *, per_peer: int, overall: int, metrics: Metrics) -> None:
        self._per_peer = per_peer
        self._overall = overall
        self._metrics = metrics
        self._under_way: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Limits {self._under_way.total()} transfers to {len(self._under_way)} peers>"

    @contextmanager
    def admit(self, address: str) -> Iterator[None]:
        """Count a transfer to a peer while the context is open. Raises Busy where there is no room for it."""
        if self._overall and self._under_way.total() >= self._overall:
            self._metrics.refused("overall")
            raise Busy(f"{self._overall} transfers to peers are under way")
        if self._per_peer and self._under_way[address] >= self._per_peer:
            self._metrics.refused("peer")
            raise Busy(f"{self._per_peer} transfers to you are under way")
        self._under_way[address] += 1
        self._show()
        try:
            yield
        finally:
            self._under_way[address] -= 1
            if not self._under_way[address]:
                del self._under_way[address]
            self._show()

    def _show(self) -> None:
        self._metrics.transfers.set(self._under_way.total())
