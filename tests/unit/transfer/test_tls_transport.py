"""The server's TLS in memory: what a lease keeps, and ends that come during it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from spegel_py.transfer.tls_transport import MAX_HELD, TlsTransport
from tests.support.certificates import Authority, contexts


class Below(asyncio.Transport):
    """A transport that keeps what is written, and a protocol that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_aborted = self.is_closed = self.is_half_closed = False
        self.protocol = Above()

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.is_half_closed = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol


class Above(asyncio.Protocol):
    received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


class Client:
    """The other end, in memory."""

    def __init__(self, below: Below, context: ssl.SSLContext) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    def shake_hands(self, tls: TlsTransport) -> None:
        for _ in range(3):
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            assert tls.receive(self._outgoing.read()) == []
            self._take()

    def send(self, data: bytes) -> bytes:
        """Return the bytes encrypted."""
        self._tls.write(data)
        return self._outgoing.read()

    def read(self) -> bytes:
        """Return all plaintext so far. Raises ssl.SSLError."""
        self._take()
        found = b""
        try:
            while piece := self._tls.read():
                found += piece
        except ssl.SSLWantReadError:
            pass
        return found

    def _take(self) -> None:
        self._incoming.write(self._below.written)
        self._below.written.clear()


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return contexts(Authority().write(tmp_path_factory.mktemp("tls")))


@pytest.fixture
def below() -> Below:
    return Below()


@pytest.fixture
def tls(below: Below, ends: tuple[ssl.SSLContext, ssl.SSLContext]) -> TlsTransport:
    return TlsTransport(below, ends[0])


@pytest.fixture
def client(below: Below, ends: tuple[ssl.SSLContext, ssl.SSLContext], tls: TlsTransport) -> Client:
    client = Client(below, ends[1])
    client.shake_hands(tls)
    return client


def test_bytes_pass_in_both_directions(below: Below, tls: TlsTransport, client: Client) -> None:
    assert tls.receive(client.send(b"a" * 100_000)) == [b"a" * 16384] * 6 + [b"a" * 1696]
    tls.write(memoryview(b"b" * 100_000))
    assert b"bbbb" not in below.written
    assert client.read() == b"b" * 100_000


def test_what_a_client_sends_during_a_lease_is_kept(
    below: Below, tls: TlsTransport, client: Client
) -> None:
    """The thread's unsent bytes follow those that it sent, and come before all others."""
    tls.lend()
    assert tls.receive(client.send(b"next")) == []
    unsent = tls.seal(memoryview(b"body"))
    tls.take_back(memoryview(unsent))
    tls.write(b"head")
    assert client.read() == b"bodyhead"
    assert tls.receive(below.protocol.received) == [b"next"]


def test_a_client_that_sends_too_much_during_a_lease_is_hung_up_on(
    below: Below, tls: TlsTransport, client: Client
) -> None:
    tls.lend()
    tls.receive(b"x" * MAX_HELD)
    assert not below.is_aborted
    tls.receive(b"x")
    assert below.is_aborted


@pytest.mark.parametrize("end", [TlsTransport.close, TlsTransport.write_eof])
def test_the_client_is_told_the_end_once(
    below: Below, tls: TlsTransport, client: Client, end: Callable[[TlsTransport], None]
) -> None:
    """A body that was cut off by somebody on the way has no such end."""
    tls.write(b"last")
    end(tls)
    assert client.read() == b"last"
    tls.close()
    tls.write(b"more")
    assert not below.written
    assert below.is_closed


def test_an_end_during_a_lease_does_not_overtake_it(
    below: Below, tls: TlsTransport, client: Client
) -> None:
    """The thread then gets an error of the socket, as without TLS."""
    tls.lend()
    tls.close()
    assert not below.written
    with pytest.raises(BrokenPipeError):
        tls.seal(memoryview(b"body"))
    tls.take_back(memoryview(b"rest"))
    assert not below.written


def test_changed_bytes_are_an_error(tls: TlsTransport, client: Client) -> None:
    sent = bytearray(client.send(b"request"))
    sent[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        tls.receive(bytes(sent))
