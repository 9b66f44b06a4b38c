"""aiohttp's server protocol with errors as OCI JSON, and an end of connections that loses no bytes.

Both are below aiohttp's public API (RequestHandler.handle_error, _make_error_handler; written
against 3.14): a malformed request raises in the parser, before a middleware could see a request.
The bounds on incomplete heads and on connections are here for the same reason.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from spegel_py.errors import OCIError, RequestInvalid
from spegel_py.registry import responses
from spegel_py.registry.connection_table import ConnectionTable

if TYPE_CHECKING:
    from spegel_py.transfer.tls_transport import TlsTransport

log = structlog.get_logger(__name__)

LINGER = 2.0
"""Seconds that a half-closed connection is kept, so that the client can read the last bytes."""

MAX_LINGERING = 64
"""Half-closed connections of a port at most: each takes 20 kB. Further connections are closed at
once. No runtime causes so many."""

HEAD = 10.0
"""Seconds within which a request's head has to be complete, from its first byte on, and the first
head from the connection on. Clients send a head in one piece; a longer wait helps only clients
that want to hold connections. Between two requests a connection may be idle for much longer."""

MAX_HEAD = 16 * 1024
"""Bytes of a head that is not complete yet. Container runtimes send 500 bytes, and browsers with
cookies a few thousand. The parser takes twice as much memory: 33 MB for all connections of one
address."""

MAX_MESSAGE = 200
"""Characters of the parser's error text that are answered and logged. The text may contain bytes
from the client."""

HANDSHAKE = 0x16
"""The first byte of a TLS connection (RFC 8446, section 5.1); no method of HTTP begins with it."""

PIECE = 8 * 1024
"""Bytes that are parsed at once: bytes after a complete head in the same piece are not counted."""


TlsContext = Callable[[], ssl.SSLContext]
"""Returns the context of a connection that begins now."""


class Connection(RequestHandler):
    """One connection of a client, with TLS if its first byte says so and a context is given.

    `connections` are all connections of its port.
    """

    __slots__ = (
        "_body",
        "_connections",
        "_head",
        "_head_timer",
        "_is_refused",
        "_lingers",
        "_tls",
        "_tls_context",
    )

    def __init__(
        self,
        manager: web.Server,
        connections: ConnectionTable,
        *,
        tls: TlsContext | None = None,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._tls_context = tls  # None once the first byte has come
        self._tls: TlsTransport | None = None
        self._body = EMPTY_PAYLOAD  # of the last request
        self._head = 0  # bytes of an incomplete head
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._lingers = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client, host = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        if client and host and not self._connections.admit(self, str(client[0]), str(host[0])):
            if self._connections.should_log(self._loop.time()):
                log.warning(
                    "connection refused: none that is open is idle",
                    client=client[0],
                    open=len(self._connections),
                )
            cast("asyncio.Transport", transport).abort()  # uvloop's has no such base class
            return
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.leave(self)
        self._head_is_over()
        super().connection_lost(exc)
        self._tls = None  # which refers to this connection, through the event loop's transport

    def data_received(self, data: bytes) -> None:
        if self._tls_context is not None and data:
            if data[0] == HANDSHAKE and self.transport is not None:
                from spegel_py.transfer.tls_transport import TlsTransport  # only with TLS

                self._tls = TlsTransport(self.transport, self._tls_context())
                self.transport = self._tls
            self._tls_context = None
        if self._tls is None:
            self._receive(data)
            return
        try:
            pieces = self._tls.receive(data)
        except ssl.SSLError as error:
            self._refuse_tls(self._tls, error)
            return
        for piece in pieces:
            self._receive(piece)

    def _receive(self, data: bytes) -> None:
        if len(data) <= PIECE:
            self._parse(data)
            return
        for at in range(0, len(data), PIECE):
            self._parse(data[at : at + PIECE])

    def _refuse_tls(self, tls: TlsTransport, error: ssl.SSLError) -> None:
        """Hang up on a client whose handshake failed, or whose bytes were changed on their way."""
        if self._connections.should_log(self._loop.time()):
            client = tls.get_extra_info("peername")
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            log.warning(
                "connection refused: no TLS with the client",
                client=client[0] if client else "",
                error=reason,
            )
        tls.close()

    @property
    def is_idle(self) -> bool:
        """Return True if no request is being answered, or waits for an answer.

        The client may still read the last answer.
        """
        if self._messages or self._lingers:
            return self._lingers
        return not self._request_count or (self._waiter is not None and not self._waiter.done())

    # Heads

    def _parse(self, data: bytes) -> None:
        if self._close or self._force_close or self._is_refused:  # further bytes are dropped
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_is_over()
            self._connections.used(self)
            message, self._body = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._refuse(message)
                return
            if self._body is EMPTY_PAYLOAD and not data.endswith((b"\r\n\r\n", b"\n\n")):
                self._wait_for_head()  # the next head has begun
        elif data and self._body.is_eof() and not self._buffer_paused:
            self._wait_for_head()
            self._head += len(data)
            if self._head - len(data) <= MAX_HEAD < self._head:
                self._refuse_head()

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD, self._head_is_late)

    def _head_is_over(self) -> None:
        self._head = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.is_idle:
            self.force_close()
        elif self.transport is not None:  # an earlier request is still being answered
            self._wait_for_head()

    def _refuse_head(self) -> None:
        """Answer a head that is too long in the way the parser answers a malformed head."""
        error = _ErrInfo(
            status=400, exc=LineTooLong(b"headers", MAX_HEAD), message="the headers are too long"
        )
        self._messages.append((error, EMPTY_PAYLOAD))
        self._refuse(error)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _refuse(self, error: _ErrInfo) -> None:
        """Read nothing more from a connection whose last message is this error.

        A refused connection lingers for seconds. So the memory of its bytes is released: they are
        in the parser, in the error, and in the frames of the error's traceback.
        """
        self._is_refused = True
        self._parser = None
        if error.exc is not None:
            error.exc.__traceback__ = None  # a cycle: only the garbage collector would free it
        message = error.message[:MAX_MESSAGE]
        kept = LineTooLong(b"", 0) if isinstance(error.exc, LineTooLong) else ValueError(message)
        short = _ErrInfo(status=error.status, exc=kept, message=message)
        self._messages[-1] = (short, EMPTY_PAYLOAD)

    # Errors and the end

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a malformed request (4xx), or to a failed handler (500)."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionResetError):
            raise ConnectionError("an answer has begun, or the client is gone: hang up") from exc
        if status >= 500:
            log.error("request failed", remote=request.remote, exc_info=exc)
            response = responses.error(OCIError("internal error"))
        else:
            text = " ".join((message or "").split())[:MAX_MESSAGE]
            log.debug("request malformed", remote=request.remote, error=text)
            too_long = isinstance(exc, LineTooLong) or "headers" in text.lower()
            response = responses.error(
                RequestInvalid(f"not a request: {text}"), status=431 if too_long else status
            )
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp assumes HTTP/1.0, and omits the header
        return response

    async def hang_up(self) -> None:
        """Send the queued bytes and a FIN; wait until the client closes, LINGER seconds at most.

        Closing at once would send an RST if the client has sent bytes that were not read. An RST
        destroys the bytes that the client has not read yet (RFC 9112, 9.6), and a runtime then
        gives up the whole pull.
        """
        self.close()  # from now on, incoming bytes are dropped
        if (
            self.transport is None
            or self.transport.is_closing()
            or not self.transport.can_write_eof()
        ):
            return
        if self._connections.lingering >= MAX_LINGERING:
            return
        self.transport.write_eof()
        self._lingers = True
        self._connections.lingering += 1
        try:
            await asyncio.sleep(LINGER)  # cancelled when the connection ends
        finally:
            self._connections.lingering -= 1

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = self.handle_error(request, err_info.status, err_info.exc, err_info.message)
            await response.prepare(request)
            await response.write_eof()
            await self.hang_up()
            return response

        return answer


async def hang_up(request: web.BaseRequest) -> None:
    """End the connection of a request, so that the client reads all bytes and then a FIN."""
    connection = request.protocol
    if isinstance(connection, Connection):
        await connection.hang_up()
