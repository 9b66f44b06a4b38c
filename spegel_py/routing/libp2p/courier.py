"""The Courier port over libp2p, seen from asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from spegel_py.errors import PeerStalled, PeerUnreachable, RouterUnavailable
from spegel_py.routing.base import MAX_WORDS, Answerer, Peer
from spegel_py.routing.libp2p.records import RecordTable


class Libp2pCourier:
    """Asks by `ask`, which crosses to the Trio side; partners are those of the `table` of its present life."""

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - it is the port's name
        table: Callable[[], RecordTable],
        ask: Callable[[str, bytes], Awaitable[bytes]],
    ) -> None:
        self._id = id
        self._table = table
        self._ask = ask
        self._answerer: Answerer | None = None
        self.changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Libp2pCourier {self._id[-6:]}: {len(self.partners())} partners>"

    @property
    def id(self) -> str:
        return self._id

    def partners(self) -> Mapping[str, Peer]:
        return self._table().partners(time.monotonic())

    def answer_with(self, answerer: Answerer) -> None:
        self._answerer = answerer

    async def ask(self, peer_id: str, question: bytes, *, timeout: float) -> bytes:
        if len(question) > MAX_WORDS:
            raise ValueError(f"a question of {len(question)} bytes")
        if peer_id not in self.partners():
            raise PeerUnreachable(f"{peer_id} is not connected, or takes no part")
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(peer_id, question)
        except TimeoutError as error:
            raise PeerStalled(f"{peer_id} did not answer in time") from error
        except RouterUnavailable as error:
            raise PeerUnreachable(f"{peer_id} cannot be asked: {error}") from error

    def answer(self, peer_id: str, question: bytes) -> bytes:
        """Answer a partner, on the Trio side. Raises ValueError."""
        if self._answerer is None:
            raise ValueError("nobody answers here yet")
        return self._answerer(peer_id, question)
