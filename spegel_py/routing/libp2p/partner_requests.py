"""Requests to the nodes that take part in a protocol of short messages, on the asyncio side.

`request_response` sends and answers them on the Trio side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from spegel_py.errors import PeerStalled, PeerUnreachable, RouterUnavailable
from spegel_py.routing.base import MAX_REQUEST, Peer, RequestHandler
from spegel_py.routing.libp2p.records import RecordTable


class Libp2pRequestResponse:
    """The RequestResponse port, on the asyncio side.

    Args:
        table: returns the record table of the Trio side's present life.
        partners: returns the peers of a table that take part, at a monotonic time.
        send: sends a request to a peer id across the bridge to the Trio side.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - it is the port's name
        table: Callable[[], RecordTable],
        partners: Callable[[RecordTable, float], Mapping[str, Peer]],
        send: Callable[[str, bytes], Awaitable[bytes]],
    ) -> None:
        self._id = id
        self._table = table
        self._partners = partners
        self._send = send
        self._handler: RequestHandler | None = None
        self.changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Libp2pRequestResponse {self._id[-6:]}: {len(self.partners())} partners>"

    @property
    def id(self) -> str:
        return self._id

    def partners(self) -> Mapping[str, Peer]:
        return self._partners(self._table(), time.monotonic())

    def set_handler(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def request(self, peer_id: str, message: bytes, *, timeout: float) -> bytes:
        if len(message) > MAX_REQUEST:
            raise ValueError(f"a request of {len(message)} bytes")
        if peer_id not in self.partners():
            raise PeerUnreachable(f"{peer_id} is not connected, or takes no part")
        try:
            async with asyncio.timeout(timeout):
                return await self._send(peer_id, message)
        except TimeoutError as error:
            raise PeerStalled(f"{peer_id} did not answer in time") from error
        except RouterUnavailable as error:
            raise PeerUnreachable(f"{peer_id} cannot be asked: {error}") from error

    def handle(self, peer_id: str, message: bytes) -> bytes:
        """Return the response to a partner's request, on the Trio side. Raises ValueError."""
        if self._handler is None:
            raise ValueError("no handler is set yet")
        return self._handler(peer_id, message)
