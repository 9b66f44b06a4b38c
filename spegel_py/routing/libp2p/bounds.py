"""Bounds on what a peer can make a node hold: traps 17 and 18 of `compat`, which applies them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from spegel_py.tools.addresses import is_loopback

MAX_STREAMS = 128
"""Open streams of one connection. A node opens one to announce, and a few for requests."""
MAX_UNREAD = 2 * 1024 * 1024
"""Unread bytes of one connection. A node sends 256 KiB on a stream until they are read."""

MAX_CONNECTIONS_PER_ADDRESS = 24
"""Connections from one address. A node has one, or two for a moment. Several nodes behind a router
that rewrites addresses share one address."""
MAX_PEERS_PER_ADDRESS = 16
"""Peers at one address. It is below the replication of 20, so that one address cannot
be all of the peers closest to a key."""
MESSAGES = 5_000
"""Kademlia messages at once from one address: a Go node announces its 10,000 records in
5 s."""
MESSAGES_PER_SECOND = 1_000
"""Kademlia messages a second for one address thereafter, which take 7 % of a core. A message that
needs an answer counts for five."""
MAX_BUDGETS = 4_096
"""Message budgets remembered before the full ones are dropped."""
ON_LOOPBACK = 256
"""Connections, and peers, from a loopback address: whole clusters run on one machine, in
demonstrations and tests."""


def is_full(held: int, address: str, *, limit: int) -> bool:
    """Return True if an IP address holds as many connections or peers as it may.

    Each IPv6 address counts for itself: a whole cluster may share one /64.
    """
    return held >= (ON_LOOPBACK if is_loopback(address) else limit)


def bound_key(address: str, peer: str) -> str:
    """Return the key under which a peer's resources are counted.

    That is the peer's address, so that peers at one address share a bound. On loopback, and without
    an address, it is the peer's id.
    """
    return peer if not address or is_loopback(address) else address


def count_nodes(addresses: Iterable[str]) -> int:
    """Return the number of nodes for which peers at these addresses count: of their bound keys."""
    peers = Counter(addresses)
    return sum(
        count if not address or is_loopback(address) else 1 for address, count in peers.items()
    )


class ConnectionCounts:
    """The number of inbound connections from each address."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()

    @contextmanager
    def one_more(self, address: str) -> Iterator[None]:
        """Count a connection while the block lasts. Raises PeerExceedsBound at the limit."""
        if is_full(self._held[address], address, limit=self._limit):
            raise PeerExceedsBound(f"{address} holds {self._held[address]} connections")
        self._held[address] += 1
        try:
            yield
        finally:
            self._held[address] -= 1
            if not self._held[address]:
                del self._held[address]


class MessageBudget:
    """Slows down a peer that sends too many messages; no message is refused.

    Each bound key may spend MESSAGES at once, and regains MESSAGES_PER_SECOND.
    """

    def __init__(self) -> None:
        self._spent_until: dict[str, float] = {}

    async def spend(self, key: str, cost: int) -> None:
        """Take `cost` messages from the budget of a bound key, and wait until it has them."""
        now = trio.current_time()
        if key not in self._spent_until and len(self._spent_until) >= MAX_BUDGETS:
            self._spent_until = {
                each: until for each, until in self._spent_until.items() if until > now
            }
        until = max(self._spent_until.get(key, now), now) + cost / MESSAGES_PER_SECOND
        self._spent_until[key] = until
        await trio.sleep(max(0.0, until - now - MESSAGES / MESSAGES_PER_SECOND))


class PeerExceedsBound(trio.TooSlowError):
    """A peer exceeds a bound. py-libp2p closes the connection on a TooSlowError only."""


class BoundedStream(YamuxStream):
    """A stream whose peer loses its connection if it sends more than the window it was given."""

    @property
    def recv_window(self) -> int:
        """Bytes that the peer may still send."""
        return cast("int", self.__dict__["recv_window"])

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        if value < 0:
            raise PeerExceedsBound(
                f"{-value} bytes more than the window of stream {self.stream_id}"
            )
        if value < self.__dict__.get("recv_window", 0):  # bytes came
            unread = sum(map(len, self.conn.stream_buffers.values()))
            if unread > MAX_UNREAD:
                raise PeerExceedsBound(f"{unread} bytes are unread")
        self.__dict__["recv_window"] = value


class _Streams(dict[int, YamuxStream]):
    """The streams of one connection: bounds each from its first byte on, and their number."""

    def __setitem__(self, number: int, stream: YamuxStream) -> None:
        if len(self) >= MAX_STREAMS and number not in self:
            raise PeerExceedsBound(f"more than {MAX_STREAMS} streams")
        if not isinstance(stream, BoundedStream):
            stream.__class__ = BoundedStream
        super().__setitem__(number, stream)


def bound_connection(connection: IMuxedConn) -> None:
    """Apply the bounds to a connection that is not used yet."""
    muxed = cast("Any", connection)
    if muxed.streams:
        raise TypeError(f"{connection} has streams already")
    muxed.streams = _Streams()
