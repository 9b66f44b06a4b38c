"""Bounds on what a peer can make a node hold: traps 17 and 18 of `compat`, which uses them."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn
from libp2p.stream_muxer.yamux.yamux import YamuxStream

MAX_STREAMS = 128
"""Streams that are open on one connection at a time. A node opens one to announce, and a few that carry questions."""
MAX_UNREAD = 2 * 1024 * 1024
"""Bytes of one connection that nobody has read yet. A node sends 256 KiB on a stream until they are read."""


MAX_CONNECTIONS_PER_ADDRESS = 24
"""Connections that one address may hold. A node has one, or two for a moment; several nodes behind a router that
rewrites addresses share one address."""
MAX_PEERS_PER_ADDRESS = 16
"""Peers at one address. It stays below the replication of 20, so that even where keys are told to the closest peers
only, one address cannot be all of those."""
MESSAGES = 5_000
"""Kademlia messages that are worked on at once for one address: a Go node tells its 10,000 records in 5 s."""
MESSAGES_PER_SECOND = 1_000
"""Kademlia messages a second for one address thereafter, 7 % of a core; one that has to be answered counts for five."""
MAX_PLACES = 4_096
"""Addresses whose budgets are remembered before those that are full again are forgotten."""
ON_LOOPBACK = 256
"""Of connections and peers on a loopback address: whole clusters run on one machine, in demonstrations and tests."""


def is_full(held: int, address: str, *, limit: int) -> bool:
    """Return True if an IP address holds as many connections or peers as it may.

    Each address of IPv6 counts for itself: a whole cluster may share one /64.
    """
    return held >= (ON_LOOPBACK if _is_loopback(address) else limit)


def place(address: str, peer: str) -> str:
    """Return what stands for a peer where peers at one address count once: its address, or on loopback its id."""
    return peer if not address or _is_loopback(address) else address


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address).is_loopback


class ConnectionCounts:
    """How many inbound connections each address holds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()

    @contextmanager
    def one_more(self, address: str) -> Iterator[None]:
        """Count a connection while the block lasts. Raises PeerExceedsBound if its address holds too many."""
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
    """Slows down whoever sends more messages than a node should work on; nothing is refused.

    Each place (an address, see `place`) has MESSAGES to spend at once, and gets MESSAGES_PER_SECOND of them back.
    """

    def __init__(self) -> None:
        self._spent_until: dict[str, float] = {}

    async def spend(self, place: str, cost: int) -> None:
        """Take `cost` messages from a place's budget, and wait until they are there."""
        now = trio.current_time()
        if place not in self._spent_until and len(self._spent_until) >= MAX_PLACES:
            self._spent_until = {
                each: until for each, until in self._spent_until.items() if until > now
            }
        until = max(self._spent_until.get(place, now), now) + cost / MESSAGES_PER_SECOND
        self._spent_until[place] = until
        await trio.sleep(max(0.0, until - now - MESSAGES / MESSAGES_PER_SECOND))


class PeerExceedsBound(trio.TooSlowError):
    """A peer sends more than it may. A TooSlowError, and no other error, has py-libp2p close the connection."""


class BoundedStream(YamuxStream):
    """A stream whose peer loses its connection if it sends more than the window that it was given."""

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
                raise PeerExceedsBound(f"{unread} bytes that nobody has read yet")
        self.__dict__["recv_window"] = value


class _Streams(dict[int, YamuxStream]):
    """The streams of one connection: each is bounded from its first byte on, and so is their number."""

    def __setitem__(self, number: int, stream: YamuxStream) -> None:
        if len(self) >= MAX_STREAMS and number not in self:
            raise PeerExceedsBound(f"more than {MAX_STREAMS} streams")
        stream.__class__ = BoundedStream
        super().__setitem__(number, stream)


def bound_connection(connection: IMuxedConn) -> None:
    """Prepare a connection that nobody uses yet."""
    muxed = cast("Any", connection)
    if muxed.streams:
        raise TypeError(f"{connection} has streams already")
    muxed.streams = _Streams()
