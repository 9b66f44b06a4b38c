"""The ports of routing: finding the peers that hold a key, and short messages between peers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from spegel_py.tools.addresses import join_host_port

NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Another node: its libp2p peer id (base58), and its registry's host (an IP literal) and port.

    `knows_password` is True for a peer that proved that it knows the cluster's password. `zone` is
    the zone that it says it is in, empty if it names none. `has_tls` is True if its registry said
    that it can be asked by TLS.
    """

    id: str
    host: str
    port: int
    knows_password: bool = field(default=False, compare=False)
    zone: str = field(default="", compare=False)
    has_tls: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.authority}({self.id[-6:]})"

    @property
    def authority(self) -> str:
        """`host:port` as it stands in a URL; IPv6 in brackets."""
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A connected peer, as the router describes it.

    Args:
        keys: number of keys the peer holds.
        heard: seconds since the peer's last sign of life; None if it speaks standard Kademlia only.
        skew: seconds by which the peer's clock is ahead of this node's; None if unknown.
        peer: the address of the peer's registry; None until the peer has announced it.
        interval: seconds between two heartbeats of the peer; None if it sends none, because it is
            pinged, or speaks standard Kademlia.
        left: seconds until the peer is dropped because it answers no pings; None if it answers.
        refused: when other nodes last reported that the peer's registry does not answer them, on
            the monotonic clock.
        has_proofs: True if the peer told a key for HTTP requests (see `peer_proofs`).
    """

    id: str
    address: str
    agent: str
    keys: int
    heard: float | None
    skew: float | None
    peer: Peer | None = None
    interval: float | None = None
    left: float | None = None
    refused: float | None = None
    has_proofs: bool = False

    @property
    def zone(self) -> str:
        """The zone that the peer says it is in, empty if it names none."""
        return self.peer.zone if self.peer else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The state of a router's background side, which is started again when it dies.

    Args:
        number: how many times it has started, from 1.
        is_up: True while it runs.
        since: monotonic time at which `is_up` last changed.
        died: monotonic time of the last death, None if there was none.
        cause: the error that it died of.
    """

    number: int
    is_up: bool
    since: float
    died: float | None = None
    cause: str = ""


class Router(Protocol):
    """Finds peers by key: a digest's text, or a tag's full name `registry/repository:tag`."""

    def lookup(self, key: str, *, limit: int, max_age: float = math.inf) -> AsyncIterator[Peer]:
        """Yield up to `limit` different peers that advertise the key, as they are found.

        Peers known to have pulled a tag more than `max_age` seconds ago are left out. The pull time
        of some peers is unknown: check the age in their HTTP answer too.

        Never yields this node itself, a peer whose records have expired, or a peer whose connection
        is lost. Yields nothing, and raises nothing, while the background side is down: the pull
        then goes to the registry.
        """
        ...

    async def advertise(
        self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None:
        """Announce to peers that this node holds the keys, and renew that until they are withdrawn.

        Never raises RouterUnavailable: while the background side is down, the keys are remembered.

        Args:
            pulled: for tags among the keys, the Unix time at which each was pulled. Advertising a
                tag again corrects its time.
        """
        ...

    async def withdraw(self, keys: Collection[str]) -> None:
        """Announce to peers that this node no longer holds the keys."""
        ...


MAX_REQUEST = 1024
"""Bytes of a request message at most. The longest real one has 300 bytes: it carries a sha512 and
the id of a peer."""

MAX_RESPONSE = 8 * 1024
"""Bytes of a response message at most. The longest real one, a snapshot of a whole tree, has
4,000."""

RequestHandler = Callable[[str, bytes], bytes]
"""Returns the response to a request of the peer with this id, which its connection authenticated.

It is called in any thread and must not block. It raises ValueError for a malformed request."""


class RequestResponse(Protocol):
    """Carries short requests and responses between the nodes that take part in one protocol."""

    @property
    def id(self) -> str:
        """This node's own peer id."""
        ...

    def partners(self) -> Mapping[str, Peer]:
        """Return the connected peers that take part, by id; this node is not among them."""
        ...

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever the partners may have changed; the waiting task clears it."""
        ...

    def set_handler(self, handler: RequestHandler) -> None:
        """Answer the partners' requests with `handler`; until then they are refused."""
        ...

    async def request(self, peer_id: str, message: bytes, *, timeout: float) -> bytes:
        """Return a peer's response.

        Raises:
            PeerStalled: no response within `timeout` seconds.
            PeerRefused: the peer refused the request, or responded with more than MAX_RESPONSE.
            PeerUnreachable: the peer is not connected, or takes no part.
        """
        ...
