"""An in-process network of routers, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from spegel_py.routing.base import Peer


class MemoryNetwork:
    """Joins memory routers: each sees what the others advertise, at once."""

    def __init__(self) -> None:
        self.members: dict[Peer, set[str]] = {}

    def join(self, peer: Peer) -> MemoryRouter:
        """Return a router that speaks for `peer` in this network."""
        self.members[peer] = set()
        return MemoryRouter(self, peer)

    def leave(self, peer: Peer) -> None:
        """Drop a member with all it advertised, as a death or a goodbye does."""
        self.members.pop(peer, None)


class MemoryRouter:
    """The Router port over a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self._network = network
        self._peer = peer

    async def lookup(self, key: str, *, limit: int) -> AsyncIterator[Peer]:
        found = [peer for peer, keys in self._network.members.items() if key in keys and peer != self._peer]
        for peer in found[:limit]:
            yield peer

    async def advertise(self, keys: Collection[str]) -> None:
        self._network.members.setdefault(self._peer, set()).update(keys)

    async def withdraw(self, keys: Collection[str]) -> None:
        self._network.members.setdefault(self._peer, set()).difference_update(keys)

    async def ready(self) -> bool:
        return len(self._network.members) > 1
