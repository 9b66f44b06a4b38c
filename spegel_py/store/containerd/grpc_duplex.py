"""A call of containerd's gRPC API with requests and answers in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from spegel_py.errors import StoreError, StoreUnavailable

END_TIMEOUT = 2.0
"""Seconds for the end of a call. A daemon that is away has ended it at once."""


class Duplex:
    """A call of requests and answers in turn.

    A cancelled caller leaves its request under way, since gRPC would cancel the whole call with it.
    """

    def __init__(self, call: Any, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._call = call
        self._errors = errors
        self._under_way: asyncio.Future[Any] | None = None

    async def send(self, request: Message) -> None:
        """Send a request without waiting for its answer."""
        with self._errors():
            try:
                await self._shielded(self._call.write(request))
            except asyncio.InvalidStateError:  # the daemon has ended the call
                await self._shielded(self._call.read())
                raise

    async def receive(self, *, within: float) -> Any:
        """Return the next answer. Raises StoreUnavailable after `within` seconds."""
        with self._errors():
            async with asyncio.timeout(within):
                answer = await self._shielded(self._call.read())
                if answer is grpc.aio.EOF:
                    raise StoreUnavailable("containerd ended the call")
                return answer

    async def end(self) -> None:
        """End the call once the daemon has, or after END_TIMEOUT."""
        try:
            with suppress(StoreError, asyncio.InvalidStateError), self._errors():
                async with asyncio.timeout(END_TIMEOUT):
                    if self._under_way is not None:
                        await asyncio.wait({self._under_way})
                    await self._call.done_writing()
                    while await self._call.read() is not grpc.aio.EOF:
                        pass
        finally:
            self._call.cancel()
            if self._under_way is not None and self._under_way.done():
                with suppress(asyncio.CancelledError):
                    self._under_way.exception()  # retrieved, so that asyncio does not warn of it

    async def _shielded(self, action: Coroutine[Any, Any, Any]) -> Any:
        self._under_way = asyncio.ensure_future(action)
        return await asyncio.shield(self._under_way)
