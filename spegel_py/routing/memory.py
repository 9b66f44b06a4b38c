"""An in-process network of routers, for tests."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Collection, Mapping

from spegel_py.routing.base import NOTHING, Peer


class MemoryNetwork:
    """Joins memory routers: each sees what the others advertise, at once."""

    def __init__(self) -> None:
        self.members: dict[Peer, dict[str, float]] = {}

    def join(self, peer: Peer) -> MemoryRouter:
        """Return a router that speaks for `peer` in this network."""
        self.members[peer] = {}
        return MemoryRouter(self, peer)

    def leave(self, peer: Peer) -> None:
        """Drop a member with all it advertised, as a death or a goodbye does."""
        self.members.pop(peer, None)


class MemoryRouter:
    """The Router port over a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self._network = network
        self._peer = peer

    async def lookup(self, key: str, *, limit: int, max_age: float = math.inf) -> AsyncIterator[Peer]:
        oldest = time.time() - max_age
        members = self._network.members.items()
        found = [peer for peer, keys in members if peer != self._peer and key in keys and keys[key] >= oldest]
        for peer in found[:limit]:
            yield peer

    async def advertise(self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING) -> None:
        held = self._network.members.setdefault(self._peer, {})
        held.update({key: pulled.get(key, math.inf) for key in keys})

    async def withdraw(self, keys: Collection[str]) -> None:
        held = self._network.members.setdefault(self._peer, {})
        for key in keys:
            held.pop(key, None)

    async def ready(self) -> bool:
        return len(self._network.members) > 1
