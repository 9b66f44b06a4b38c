"""One HTTP/1.1 request to a peer, and the head of its answer; no I/O. h11 parses, and is strict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h11
from multidict import CIMultiDict, CIMultiDictProxy

from spegel_py.errors import PeerRefused

MAX_HEAD = 32 * 1024
"""Bytes of the largest head, provisional answers (1xx) before it included; our own have 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The head of an answer.

    Args:
        status: HTTP status.
        headers: by name, in any case.
        length: bytes of the body as it is sent, None if only its end shows that.
        rest: bytes that came with the head.
        is_kept: True if the connection may be used again.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    rest: bytes
    is_kept: bool


class HTTPExchange:
    """A GET or HEAD: the caller sends `request`, then passes input to `receive` for the head."""

    def __init__(self, *, method: str, target: str, headers: list[tuple[str, str]]) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._has_body = method != "HEAD"
        self._received = 0
        request = h11.Request(method=method, target=target, headers=headers)
        self.request: bytes = self._http.send(request) + self._http.send(h11.EndOfMessage())

    def __repr__(self) -> str:
        return f"<Exchange received={self._received} {self._http.their_state}>"

    def receive(self, data: bytes) -> ResponseHead | None:
        """Parse one or more bytes; return the head once it is complete.

        Raises PeerRefused if the input is not HTTP.
        """
        self._received += len(data)
        try:
            self._http.receive_data(data)
            while isinstance(event := self._http.next_event(), h11.InformationalResponse):
                self._check_length()
        except h11.RemoteProtocolError as error:
            raise PeerRefused(
                f"the peer's answer is not HTTP: {error}"[:200], status=error.error_status_hint
            ) from error
        self._check_length()
        return self._head(event) if isinstance(event, h11.Response) else None

    def decode(self, data: bytes) -> tuple[bytes, bool]:
        """Return the bytes in the body's chunks, and True if that was the last chunk.

        The first call uses the head's rest, so pass b"" then. Raises PeerRefused.
        """
        body = bytearray()
        try:
            if data:
                self._http.receive_data(data)
            while isinstance(event := self._http.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError as error:
            raise PeerRefused(f"the peer's body is not HTTP: {error}"[:200], status=200) from error
        return bytes(body), isinstance(event, h11.EndOfMessage)

    def _check_length(self) -> None:
        if self._received - len(self._http.trailing_data[0]) > MAX_HEAD:
            raise PeerRefused(
                f"the peer's answer has a head of more than {MAX_HEAD} bytes", status=431
            )

    def _head(self, response: h11.Response) -> ResponseHead:
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers
        )
        length = self._length(headers)
        is_last = (
            "close" in headers.get("Connection", "").lower() or response.http_version != b"1.1"
        )
        return ResponseHead(
            status=response.status_code,
            headers=CIMultiDictProxy(headers),
            length=length,
            rest=self._http.trailing_data[0] if length is not None else b"",  # else h11 keeps it
            is_kept=length is not None and not is_last,
        )

    def _length(self, headers: Mapping[str, str]) -> int | None:
        if not self._has_body:
            return 0
        if "Transfer-Encoding" in headers or "Content-Length" not in headers:
            return None
        return int(headers["Content-Length"])  # h11 has checked that it is one number
