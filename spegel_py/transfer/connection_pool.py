"""Connections to peers: made to the first address that answers, then kept for later requests."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohappyeyeballs import AddrInfoType, start_connection

from spegel_py.routing.base import Peer

KEEPALIVE = 15.0
"""Seconds for which an idle connection is kept.

The layers of one pull follow each other within that time. A peer's registry keeps its side for
75 s, so that ours is the side which closes.
"""

MAX_IDLE_PER_PEER = 8
"""Idle connections kept to one peer: a runtime asks for 3 layers at a time, of several images."""

MAX_IDLE = 256
"""Idle connections kept to all peers, so that many peers do not use up the descriptors."""

STAGGER = 0.1
"""Seconds before the next address of a name is tried too.

Peers are near, so this is the least that RFC 8305 (section 5) allows.
"""

WINDOW = 1024 * 1024
"""Bytes of a near peer's body that the kernel may buffer while a client reads slowly.

The kernel's own limit is `net.ipv4.tcp_rmem` (6 MB by default, more on some hosts) for each
connection. A hundred slow clients of large layers would pin a hundred times that in memory, and it
counts towards the Pod.
"""

FAST = 500_000_000
"""Bytes per second that a bounded window must still allow; a distant peer's window has no bound."""

USUAL_RMEM_MAX = 212_992
"""Bytes that a socket may request if `net.core.rmem_max` cannot be read: Linux's default."""

_RTT = struct.Struct("68xI")
"""The smoothed round-trip time in microseconds, in `struct tcp_info` (linux/tcp.h)."""


async def dial(peer: Peer) -> socket.socket:
    """Return a new non-blocking connection that sends small packets at once. Raises OSError."""
    sock = await start_connection(await _addresses(peer), happy_eyeballs_delay=STAGGER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if (window := window_of(_round_trip(sock), _rmem_max())) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    return sock


def window_of(round_trip: float, rmem_max: int) -> int | None:
    """Return the bytes of a connection's receive window, or None to let the kernel decide.

    Args:
        round_trip: seconds that a packet takes to the peer and back.
        rmem_max: bytes that the kernel grants at most (`net.core.rmem_max`).
    """
    window = min(WINDOW, rmem_max)
    return window if window >= FAST * round_trip else None


def _round_trip(sock: socket.socket) -> float:
    """Return the round-trip time that the kernel measured in the handshake, in seconds."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    return float(_RTT.unpack(info)[0]) / 1e6


@cache
def _rmem_max() -> int:
    try:
        return int(Path("/proc/sys/net/core/rmem_max").read_text())
    except (OSError, ValueError):  # a sandbox may hide it
        return USUAL_RMEM_MAX


async def _addresses(peer: Peer) -> Sequence[AddrInfoType]:
    try:
        return socket.getaddrinfo(
            peer.host, peer.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except socket.gaierror:  # a name, so this may take a while
        return await asyncio.get_running_loop().getaddrinfo(
            peer.host, peer.port, type=socket.SOCK_STREAM
        )
    except ValueError as error:  # the text can be no host; it has a lone surrogate, for example
        raise OSError(f"{peer.host!r:.80} is no host: {error}") from error


@dataclass(frozen=True, slots=True)
class _Idle:
    sock: socket.socket
    since: float


class ConnectionPool:
    """Keeps idle connections by peer, inside one event loop, and closes them after `keepalive`."""

    def __init__(self, *, keepalive: float = KEEPALIVE) -> None:
        self._keepalive = keepalive
        self._idle: OrderedDict[Peer, deque[_Idle]] = OrderedDict()
        """Idle connections; the peer of the newest one is last."""
        self._count = 0
        self._sweeping: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Pool of {self._count} connections to {len(self._idle)} peers>"

    def __len__(self) -> int:
        return self._count

    def take(self, peer: Peer) -> socket.socket | None:
        """Return the connection to the peer that was used last and is still open, or None."""
        while peer in self._idle:
            sock = self._pop(peer, newest=True)
            if not _has_input(sock):
                return sock
            sock.close()
        return None

    def keep(self, peer: Peer, sock: socket.socket) -> None:
        """Keep an unused connection; beyond the limits the oldest connections are closed."""
        loop = asyncio.get_running_loop()
        self._idle.setdefault(peer, deque()).append(_Idle(sock, loop.time()))
        self._idle.move_to_end(peer)
        self._count += 1
        if len(self._idle[peer]) > MAX_IDLE_PER_PEER:
            self._pop(peer).close()
        elif self._count > MAX_IDLE:
            self._pop(next(iter(self._idle))).close()
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._keepalive, self._sweep)

    def close(self) -> None:
        """Close all idle connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        while self._idle:
            self._pop(next(iter(self._idle))).close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        over = loop.time() - self._keepalive
        for peer in list(self._idle):
            while peer in self._idle and self._idle[peer][0].since <= over:
                self._pop(peer).close()
        oldest = min((idle[0].since for idle in self._idle.values()), default=None)
        self._sweeping = (
            None if oldest is None else loop.call_at(oldest + self._keepalive, self._sweep)
        )

    def _pop(self, peer: Peer, *, newest: bool = False) -> socket.socket:
        queue = self._idle[peer]
        idle = queue.pop() if newest else queue.popleft()
        if not queue:
            del self._idle[peer]
        self._count -= 1
        return idle.sock


def _has_input(sock: socket.socket) -> bool:
    """Return True if there is unexpected input: an end, an error, or bytes beyond a body."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():  # decrypted with the body's last bytes
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
