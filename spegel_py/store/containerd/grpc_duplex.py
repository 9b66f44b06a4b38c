"""A call of containerd's gRPC API with requests and answers in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any

from google.protobuf.message import Message

from spegel_py.errors import StoreError, StoreUnavailable
from spegel_py.store.containerd.grpc_channel import Call

END_TIMEOUT = 2.0
"""Seconds for the end of a call. A daemon that is away has ended it at once."""


class Duplex:
    """A call of requests and answers in turn.

    A cancelled caller leaves its request under way: half of one would break the call.
    """

    def __init__(self, call: Call, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._call = call
        self._errors = errors
        self._under_way: asyncio.Future[Any] | None = None
        self._is_begun = self._is_open = False

    async def send(self, request: Message, *, is_last: bool = False) -> None:
        """Send a request without waiting for its answer.

        The one with which the daemon ends the call must be sent as the last one. Otherwise gRPC
        resets the call at once, and the answer is lost.
        """
        with self._errors():
            await self._shielded(self._send(request, is_last=is_last))

    async def _send(self, request: Message, *, is_last: bool) -> None:
        await self._call.send(request, is_last=is_last)
        self._is_begun, self._is_open = True, not is_last

    async def receive(self, *, within: float) -> Any:
        """Return the next answer. Raises StoreUnavailable after `within` seconds."""
        with self._errors():
            async with asyncio.timeout(within):
                answer = await self._shielded(self._call.receive())
                if answer is None:
                    raise StoreUnavailable("containerd ended the call")
                return answer

    async def end(self) -> None:
        """End the call once the daemon has, or after END_TIMEOUT."""
        if self._under_way is None:
            return
        try:
            with suppress(StoreError), self._errors():
                async with asyncio.timeout(END_TIMEOUT):
                    await asyncio.wait({self._under_way})
                    if self._is_open:
                        await self._call.end()
                    while self._is_begun and await self._call.receive() is not None:
                        pass
        finally:
            self._under_way.cancel()  # nobody would answer it any more
            if self._under_way.done():
                with suppress(asyncio.CancelledError):
                    self._under_way.exception()  # retrieved, so that asyncio does not warn of it

    async def _shielded(self, action: Coroutine[Any, Any, Any]) -> Any:
        self._under_way = asyncio.ensure_future(action)
        return await asyncio.shield(self._under_way)
