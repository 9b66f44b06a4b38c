"""An in-process network of routers, for tests."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping

from spegel_py.errors import PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.routing.base import MAX_RESPONSE, NOTHING, Peer, RequestHandler


class MemoryNetwork:
    """Connects memory routers: each sees at once the keys of all members."""

    def __init__(self) -> None:
        self.members: dict[Peer, dict[str, float]] = {}
        self.handlers: dict[Peer, RequestHandler] = {}
        self.silent: set[str] = set()
        self._clients: list[MemoryRequestResponse] = []

    def join(self, peer: Peer) -> MemoryRouter:
        """Return the router of a new member `peer`."""
        self.members[peer] = {}
        return MemoryRouter(self, peer)

    def requests(self, peer: Peer) -> MemoryRequestResponse:
        """Return the request-response port of a member, which is a partner from now on."""
        self.handlers[peer] = _refuse
        self._clients.append(MemoryRequestResponse(self, peer))
        self._changed()
        return self._clients[-1]

    def leave(self, peer: Peer) -> None:
        """Drop a member with all keys it advertised, as a death or a goodbye does."""
        self.members.pop(peer, None)
        self.handlers.pop(peer, None)
        self._changed()

    def silence(self, peer: Peer, *, on: bool = True) -> None:
        """Start or stop dropping all requests to a member, as if it hung."""
        (self.silent.add if on else self.silent.discard)(peer.id)

    def _changed(self) -> None:
        for client in self._clients:
            client.changed.set()


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


class MemoryRequestResponse:
    """The RequestResponse port over a MemoryNetwork."""

    def __init__(self, network: MemoryNetwork, peer: Peer) -> None:
        self._network = network
        self._peer = peer
        self.changed = asyncio.Event()

    @property
    def id(self) -> str:
        return self._peer.id

    def partners(self) -> Mapping[str, Peer]:
        return {peer.id: peer for peer in self._network.handlers if peer != self._peer}

    def set_handler(self, handler: RequestHandler) -> None:
        self._network.handlers[self._peer] = handler

    async def request(self, peer_id: str, message: bytes, *, timeout: float) -> bytes:
        await asyncio.sleep(0)
        if peer_id in self._network.silent or not timeout:
            await asyncio.sleep(timeout)
            raise PeerStalled(f"{peer_id} did not answer in time")
        if (partner := self.partners().get(peer_id)) is None:
            raise PeerUnreachable(f"{peer_id} is not connected")
        try:
            response = self._network.handlers[partner](self.id, message)
        except ValueError as error:
            raise PeerRefused(f"{peer_id} refuses this request: {error}", status=400) from error
        if len(response) > MAX_RESPONSE:
            raise PeerRefused(f"{peer_id} responds with {len(response)} bytes", status=400)
        return response


def _refuse(_: str, __: bytes) -> bytes:
    raise ValueError("no handler is set")
