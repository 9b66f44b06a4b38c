"""The Sink port over aiohttp's server: a client that does not read is dropped."""

from __future__ import annotations

import asyncio

from aiohttp import web

from spegel_py.transfer.base import ClientGone


class ResponseSink:
    """Takes the body of a prepared response; a client may take `timeout` seconds for one piece."""

    def __init__(self, *, request: web.BaseRequest, response: web.StreamResponse, timeout: float) -> None:
        self._request = request
        self._response = response
        self._timeout = timeout
        self._sent = 0

    def __repr__(self) -> str:
        return f"<ResponseSink sent={self._sent}>"

    @property
    def sent(self) -> int:
        return self._sent

    async def write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._response.write(data)
        except TimeoutError as error:
            self._drop()
            raise ClientGone("the client stopped reading") from error
        except ConnectionError as error:
            raise ClientGone("the client left") from error
        self._sent += len(data)

    def _drop(self) -> None:
        """Close without waiting for the client to take what is queued here.

        The kernel still delivers what it has, with a FIN behind it: a runtime that was only stopped for a while sees
        a short body, and resumes.
        """
        if self._request.transport is not None:
            self._request.transport.abort()
