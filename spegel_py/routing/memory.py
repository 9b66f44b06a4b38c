"""An in-process network of routers, for tests."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping

from spegel_py.errors import PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.routing.base import MAX_ANSWER, NOTHING, Answerer, Peer


class MemoryNetwork:
    """Joins memory routers: each sees what the others advertise, at once."""

    def __init__(self) -> None:
        self.members: dict[Peer, dict[str, float]] = {}
        self.answerers: dict[Peer, Answerer] = {}
        self.silent: set[str] = set()
        self._couriers: list[MemoryCourier] = []

    def join(self, peer: Peer) -> MemoryRouter:
        """Return a router that speaks for `peer` in this network."""
        self.members[peer] = {}
        return MemoryRouter(self, peer)

    def courier(self, peer: Peer) -> MemoryCourier:
        """Return a courier for a member, which takes part from now on."""
        self.answerers[peer] = _refuse
        self._couriers.append(MemoryCourier(self, peer))
        self._changed()
        return self._couriers[-1]

    def leave(self, peer: Peer) -> None:
        """Drop a member with all it advertised, as a death or a goodbye does."""
        self.members.pop(peer, None)
        self.answerers.pop(peer, None)
        self._changed()

    def silence(self, peer: Peer, *, on: bool = True) -> None:
        """Let a member answer nobody, as one that hangs, or let it again."""
        (self.silent.add if on else self.silent.discard)(peer.id)

    def _changed(self) -> None:
        for courier in self._couriers:
            courier.changed.set()


class MemoryRouter:
    """The Router port over a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self._network = network
        self._peer = peer

    async def lookup(
        self, key: str, *, limit: int, max_age: float = math.inf
    ) -> AsyncIterator[Peer]:
        oldest = time.time() - max_age
        members = self._network.members.items()
        found = [
            peer
            for peer, keys in members
            if peer != self._peer and key in keys and keys[key] >= oldest
        ]
        for peer in found[:limit]:
            yield peer

    async def advertise(
        self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None:
        held = self._network.members.setdefault(self._peer, {})
        held.update({key: pulled.get(key, math.inf) for key in keys})

    async def withdraw(self, keys: Collection[str]) -> None:
        held = self._network.members.setdefault(self._peer, {})
        for key in keys:
            held.pop(key, None)

    async def ready(self) -> bool:
        return len(self._network.members) > 1


class MemoryCourier:
    """The Courier port over a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self._network = network
        self._peer = peer
        self.changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self._peer.id

    def partners(self) -> Mapping[str, Peer]:
        return {peer.id: peer for peer in self._network.answerers if peer != self._peer}

    def answer_with(self, answerer: Answerer) -> None:
        self._network.answerers[self._peer] = answerer

    async def ask(self, peer_id: str, question: bytes, *, timeout: float) -> bytes:
        await asyncio.sleep(0)
        if peer_id in self._network.silent or not timeout:
            await asyncio.sleep(timeout)
            raise PeerStalled(f"{peer_id} did not answer in time")
        if (partner := self.partners().get(peer_id)) is None:
            raise PeerUnreachable(f"{peer_id} is not connected")
        try:
            answer = self._network.answerers[partner](self.id, question)
        except ValueError as error:
            raise PeerRefused(f"{peer_id} does not answer this: {error}", status=400) from error
        if len(answer) > MAX_ANSWER:
            raise PeerRefused(f"{peer_id} answers with {len(answer)} bytes", status=400)
        return answer


def _refuse(_: str, __: bytes) -> bytes:
    raise ValueError("nobody answers here")
