"""The gate before libp2p: a connection passes only if the other side has a key of the cluster.

The wire format is that of libp2p's private networks, so go-libp2p nodes with the same key pass too:
each side sends 24 random bytes, and encrypts all that follows with XSalsa20, multistream and Noise
included. Noise still authenticates each peer; the gate only keeps strangers out of it. A stranger
reaches nothing but a socket that is closed.

A peer that connects is recognized by its first bytes. In the clear they are the first line of
multistream. Encrypted, they decrypt to that line with one of the keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog
import trio
from libp2p.network.connection.raw_connection import RawConnection

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.cluster_keys import ClusterKey, KeysMode
from spegel_py.routing.libp2p import negotiation
from spegel_py.routing.libp2p.speedups import ReadAhead
from spegel_py.routing.libp2p.xsalsa20 import NONCE_BYTES, StreamCipher, xsalsa20

log = structlog.get_logger(__name__)

DEADLINE = 2.0
"""Seconds for the first bytes of a peer that connects; a member sends them at once."""
MOST_AT_ONCE = 512
"""Connections in the gate at a time. A member passes within milliseconds."""
MAX_LOGGED = 256
"""Addresses that are logged, of strangers and of peers with other keys each."""

_FIRST_LINE = negotiation.line(negotiation.NAME)
_NOT_A_LINE = b"\x01\x00"
"""Begins each nonce of this node. A peer without a key takes it for a line of one byte that has no
end, and closes the connection at once. Random bytes could be the beginning of a long line, of which
the peer would wait for the rest. The other 22 bytes are random."""


class Stranger(Exception):
    """A connection does not pass the gate; the message says why."""


class KeyedStream(ReadAhead):
    """A connection whose bytes are encrypted with a key of the cluster.

    Args:
        plain: the connection; what was read ahead of it is not taken over.
        nonce: the peer's 24 bytes, empty if they have not come yet.
    """

    def __init__(self, plain: ReadAhead, key: ClusterKey, nonce: bytes = b"") -> None:
        super().__init__(plain.stream)
        self._cached_remote_address = plain._cached_remote_address
        self.key = key
        self._incoming = xsalsa20(key.secret, nonce) if nonce else None
        self._outgoing: StreamCipher | None = None

    async def write(self, data: bytes) -> None:
        """Send all of `data`, after this node's nonce if it was not sent yet."""
        nonce = b""
        if self._outgoing is None:
            nonce = _NOT_A_LINE + secrets.token_bytes(NONCE_BYTES - len(_NOT_A_LINE))
            self._outgoing = xsalsa20(self.key.secret, nonce)
        await super().write(nonce + self._outgoing.encrypt(data))

    async def _receive(self) -> bytes:
        if self._incoming is not None:
            return self.decrypt(await super()._receive())
        received = b""
        while len(received) <= NONCE_BYTES:
            if not (data := await super()._receive()):
                return b""
            received += data
        self._incoming = xsalsa20(self.key.secret, received[:NONCE_BYTES])
        return self.decrypt(received[NONCE_BYTES:])

    def decrypt(self, data: bytes) -> bytes:
        """Return the next bytes of the peer in the clear."""
        return cast("StreamCipher", self._incoming).encrypt(data) if data else b""


class NetworkGate:
    """Decides which connections pass. The keys may change while it is in use."""

    def __init__(self, keys: Sequence[ClusterKey] = (), mode: KeysMode = KeysMode.OFF) -> None:
        self.keys = tuple(keys)
        self._mode = mode if keys else KeysMode.OFF
        self._inside = 0

    def __repr__(self) -> str:
        return f"<NetworkGate {self._mode} {[key.fingerprint for key in self.keys]}>"

    @property
    def ways(self) -> tuple[ClusterKey | None, ...]:
        """The ways to dial a peer, the first one first; None is in the clear."""
        match self._mode:
            case KeysMode.OFF:
                return (None,)
            case KeysMode.ACCEPT:
                return (self.keys[0], None)
            case KeysMode.REQUIRE:
                return (self.keys[0],)

    def close_with(self, raw: RawConnection, key: ClusterKey | None) -> None:
        """Encrypt a dialled connection, unless it is to be in the clear."""
        if key is not None:
            raw.stream = KeyedStream(cast("ReadAhead", cast("Any", raw).stream), key)

    async def admit(self, raw: RawConnection) -> None:
        """Return once the peer that opened a connection has passed. Raises Stranger."""
        if self._mode is KeysMode.OFF:
            return
        if self._inside >= MOST_AT_ONCE:
            raise Stranger(f"{MOST_AT_ONCE} others are in the gate")
        self._inside += 1
        try:
            with trio.fail_after(DEADLINE):
                await self._recognize(raw)
        except trio.TooSlowError:
            raise Stranger(f"it sent nothing that a member sends within {DEADLINE:g} s") from None
        finally:
            self._inside -= 1

    async def _recognize(self, raw: RawConnection) -> None:
        plain = cast("ReadAhead", cast("Any", raw).stream)
        received = await _read(plain, b"", len(_FIRST_LINE))
        if received.startswith(_FIRST_LINE):
            if self._mode is KeysMode.REQUIRE:
                raise Stranger("it has no key")
            plain.put_back(received)
            return
        received = await _read(plain, received, NONCE_BYTES + len(_FIRST_LINE))
        nonce, rest = received[:NONCE_BYTES], received[NONCE_BYTES:]
        for key in self.keys:
            keyed = KeyedStream(plain, key, nonce)
            clear = keyed.decrypt(rest)
            if clear.startswith(_FIRST_LINE):
                keyed.put_back(clear)
                raw.stream = keyed
                return
        raise Stranger("it has another key, or speaks no libp2p")


async def _read(plain: ReadAhead, received: bytes, least: int) -> bytes:
    """Return the received bytes with more behind them, `least` at least. Raises Stranger."""
    while len(received) < least:
        if not (data := await plain.read()):
            raise Stranger("it closed the connection")
        received += data
    return received


def key_of(raw: RawConnection) -> ClusterKey | None:
    """Return the key that a connection is encrypted with; None in the clear."""
    stream = cast("Any", raw).stream
    return stream.key if isinstance(stream, KeyedStream) else None


class SeenAddresses:
    """The addresses of which one line was logged; of too many, the last ones get none."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def is_new(self, address: str) -> bool:
        """Take up an address; return True if a line is to be logged for it."""
        if address in self._seen or len(self._seen) >= MAX_LOGGED:
            return False
        self._seen.add(address)
        return True


class StrangerLog:
    """Counts connections that did not pass, and logs each address once."""

    def __init__(self, counted: Callable[[], None]) -> None:
        self._counted = counted
        self._seen = SeenAddresses()

    def add(self, address: str, why: str) -> None:
        """Take up a connection from an IP address that did not pass."""
        self._counted()
        if self._seen.is_new(address):
            log.warning("stranger refused", address=address, why=why)


class KeyNotAccepted(PeerUnreachable):
    """A peer closed a connection that was encrypted with this node's key."""
