"""TLS above a connection that a server accepted, begun once its first byte shows a handshake.

asyncio can begin TLS only before the first byte was read, and a port that serves both has to read
it. This is public API of `ssl` alone, and the same on every event loop.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from typing import Any

PIECE = 64 * 1024
"""Bytes of plaintext that are read at once."""

MAX_HELD = 64 * 1024
"""Bytes that a client may send during a lease: the heads of its next requests."""


class TlsTransport(asyncio.Transport):
    """What a protocol writes to: encrypts, and writes to the transport below.

    The protocol stays that of the transport below, so that its pauses for slow clients reach it.
    It gives the bytes that it receives to `receive`.

    While the transport is lent, a thread encrypts, and the loop keeps what the client sends. The
    lock is for a connection that is closed meanwhile: OpenSSL's connections know no threads.
    """

    def __init__(self, below: asyncio.Transport, context: ssl.SSLContext) -> None:
        super().__init__()
        self._below = below
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_ready = False
        self._is_ended = False
        self._is_lent = False
        self._held = bytearray()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<TlsTransport {self._tls.version()} over {self._below!r}>"

    def receive(self, data: bytes) -> list[bytes]:
        """Return the plaintext of received bytes. Raises ssl.SSLError, after answering with it."""
        if self._is_ended:
            return []
        if self._is_lent:
            self._held += data
            if len(self._held) > MAX_HELD:
                self.abort()
            return []
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self._is_ready:
                self._tls.do_handshake()
                self._is_ready = True
            while piece := self._tls.read(PIECE):
                pieces.append(piece)
            self.close()  # the client sends nothing more
        except ssl.SSLWantReadError:
            pass
        finally:
            self._flush()
        return pieces

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_ended or self._below.is_closing():
            return
        self._below.write(self.seal(memoryview(data).cast("B")))

    def seal(self, data: memoryview) -> bytes:
        """Return the bytes encrypted. Raises BrokenPipeError, and ssl.SSLError."""
        with self._lock:
            if self._is_ended:
                raise BrokenPipeError
            while data:
                data = data[self._tls.write(data) :]
            return self._outgoing.read()

    def lend(self) -> None:
        """Leave encryption to a thread, which calls `seal`, until `take_back`."""
        self._is_lent = True

    def take_back(self, unsent: memoryview) -> None:
        """Send what the thread has encrypted and not sent; go on with what the client sent."""
        self._is_lent = False
        if unsent and not self._below.is_closing():
            self._below.write(unsent)
        held, self._held = bytes(self._held), bytearray()
        protocol = self._below.get_protocol()
        if held and isinstance(protocol, asyncio.Protocol):
            protocol.data_received(held)

    def write_eof(self) -> None:
        self._end()
        self._below.write_eof()

    def close(self) -> None:
        self._end()
        self._below.close()

    def _end(self) -> None:
        """Tell the client that nothing more comes, once."""
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
            if self._is_lent:  # the end would overtake what the thread has not sent
                return
            with suppress(ssl.SSLError):  # the client's own end is not waited for
                self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    # As the transport below

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._context
            case "ssl_object":
                return self._tls
        return self._below.get_extra_info(name, default)

    def abort(self) -> None:
        self._below.abort()

    def can_write_eof(self) -> bool:
        return self._below.can_write_eof()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._below.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._below.get_protocol()
