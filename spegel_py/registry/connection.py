"""aiohttp's server protocol with errors as OCI JSON, and with a way to end a connection that loses no bytes.

Both live below aiohttp's public API (RequestHandler.handle_error, _make_error_handler; written against 3.14): a
malformed request raises in the parser, before there is a request that a middleware could see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from spegel_py.errors import OCIError, RequestInvalid
from spegel_py.registry import responses

log = structlog.get_logger(__name__)

LINGER = 2.0
"""Seconds that a half-closed connection is kept for the client to read what is on its way."""


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that could not be parsed (4xx), or whose handler failed (a bug, 500)."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionResetError):
            raise ConnectionError("an answer has begun, or the client is gone: hang up") from exc
        if status >= 500:
            log.error("request failed", remote=request.remote, exc_info=exc)
            response = responses.error(OCIError("internal error"))
        else:
            text = " ".join((message or "").split())[:200]
            log.debug("request malformed", remote=request.remote, error=text)
            too_long = isinstance(exc, LineTooLong) or "headers" in text.lower()
            response = responses.error(RequestInvalid(f"not a request: {text}"), status=431 if too_long else status)
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp takes the request for HTTP/1.0, and says nothing
        return response

    async def hang_up(self) -> None:
        """Send what is queued and then a FIN, and wait until the client has closed too, LINGER seconds at most.

        Closing at once would send an RST if the client has sent anything that was not read, and an RST destroys
        what the client has not read yet (RFC 9112, 9.6); a runtime gives up the whole pull on one.
        """
        self.close()  # from now on, what comes in is thrown away
        if self.transport is not None and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()
            await asyncio.sleep(LINGER)  # cancelled when the connection ends

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = self.handle_error(request, err_info.status, err_info.exc, err_info.message)
            await response.prepare(request)
            await response.write_eof()
            await self.hang_up()
            return response

        return answer


async def hang_up(request: web.BaseRequest) -> None:
    """End the connection of a request so that the client sees all that was sent, and then a FIN."""
    connection = request.protocol
    if isinstance(connection, Connection):
        await connection.hang_up()
