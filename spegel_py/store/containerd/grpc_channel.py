"""gRPC over a Unix socket, by way of grpclib.

grpclib ends the steps that wait on a broken connection by cancelling their tasks, and never takes
that back (`Task.uncancel`). A task group or a timeout around the step would take it for a
cancellation from outside, and one from outside may get lost. So each step of a call runs in a task
of its own.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from grpclib.exceptions import ProtocolError, StreamTerminatedError
from h2.exceptions import H2Error

BROKEN = "the connection broke"
"""The text of the ConnectionResetError of a call whose connection went away."""

_SIGNS = (StreamTerminatedError, H2Error, ProtocolError, RuntimeError)
"""Errors with which a step ends then; uvloop's transports raise a RuntimeError once closed."""

T = TypeVar("T")


class ChannelClosed(Exception):
    """The channel was closed because this node is stopping."""


class Call:
    """One call: requests and answers in turn.

    Its steps raise GRPCError for the daemon's refusal, and OSError if there is no connection or if
    it broke.
    """

    def __init__(self, stream: Stream[Message, Message]) -> None:
        self._stream = stream

    async def send(self, request: Message, *, is_last: bool) -> None:
        """Send a request."""
        await _apart(self._step(self._stream.send_message(request, end=is_last)))

    async def receive(self) -> Any:
        """Return the next answer, None at the end of a call that succeeded."""
        return await _apart(self._step(self._receive()))

    async def end(self) -> None:
        """Tell the daemon that no request follows. Some request was sent before."""
        await _apart(self._step(self._stream.end()))

    async def _receive(self) -> Message | None:
        answer = await self._stream.recv_message()
        if answer is None:
            self._stream._maybe_raise()
        return answer

    async def _step(self, step: Coroutine[Any, Any, T]) -> T:
        try:
            return await step
        except StreamTerminatedError:
            self._stream._maybe_raise()  # the daemon's own reason, if it has sent one
            raise


class UnixChannel:
    """A connection to a daemon, made for the first call and again after it broke."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: Channel | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<UnixChannel {self._socket}>"

    def close(self) -> None:
        """Close the connection. Calls end with an error, and later ones are refused."""
        self._is_closed = True
        if self._channel is not None:
            self._channel.close()

    async def unary(
        self, method: str, request: Message, answer: type[Message], metadata: Mapping[str, str]
    ) -> Any:
        """Return the answer to one request. Raises the errors of `Call`, and ChannelClosed."""

        async def ask() -> Message | None:
            async with self._open(
                method, Cardinality.UNARY_UNARY, type(request), answer, metadata
            ) as stream:
                await stream.send_message(request, end=True)
                return await stream.recv_message()

        return await _apart(ask())

    @asynccontextmanager
    async def call(
        self,
        method: str,
        cardinality: Cardinality,
        request: type[Message],
        answer: type[Message],
        metadata: Mapping[str, str],
    ) -> AsyncIterator[Call]:
        """Give a call of several steps. Leaving it cancels what is left of it."""
        stream = self._open(method, cardinality, request, answer, metadata)
        await stream.__aenter__()
        try:
            yield Call(stream)
        finally:
            # With an error it resets the stream, and waits for nothing.
            await stream.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)

    def _open(
        self,
        method: str,
        cardinality: Cardinality,
        request: type[Message],
        answer: type[Message],
        metadata: Mapping[str, str],
    ) -> Stream[Message, Message]:
        if self._is_closed:
            raise ChannelClosed("the channel is closed")
        if self._channel is None:
            self._channel = Channel(path=str(self._socket))
        return self._channel.request(method, cardinality, request, answer, metadata=metadata)


async def _apart(step: Coroutine[Any, Any, T]) -> T:
    """Return the result of a step that runs in a task of its own."""
    task = asyncio.create_task(step)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # so that asyncio does not log it
        raise
    try:
        return task.result()
    except _SIGNS as error:
        raise ConnectionResetError(errno.ECONNRESET, BROKEN) from error
