"""The port of the router: who holds a key, and telling others what is held here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Another node: its libp2p peer id (base58) and the host (an IP literal) and port of its registry.

    `knows_password` is True for a peer that proved that it knows the cluster's password.
    """

    id: str
    host: str
    port: int
    knows_password: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.authority}({self.id[-6:]})"

    @property
    def authority(self) -> str:
        """`host:port` as it stands in a URL; IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a node knows of a peer it is connected with: the keys it holds, and for peers that announce (the others
    speak standard Kademlia only) when it was heard from, in seconds ago, by how many seconds its clock is ahead, and
    within how many it will be heard from again. `peer` is where its registry is, None while it has not said so.
    """

    id: str
    address: str
    agent: str
    keys: int
    heard: float | None
    skew: float | None
    peer: Peer | None = None
    interval: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """How a router's other side fares: which of its lives this is, counted from 1, whether it is up, and since when it
    is or is not; and when the last death was and what of (times are monotonic)."""

    number: int
    is_up: bool
    since: float
    died: float | None = None
    cause: str = ""


class Router(Protocol):
    """Finds peers by key. A key is a digest's text or a tag's full name `registry/repository:tag`."""

    def lookup(self, key: str, *, limit: int, max_age: float = math.inf) -> AsyncIterator[Peer]:
        """Yield up to `limit` different peers that advertise the key, as they are found; end when no more will come.

        Peers that are known to have pulled it, a tag, more than `max_age` seconds ago are left out. Not of all is it
        known: what they answer must be looked at too.

        Never yields this node itself, nor peers whose records have expired or whose connection is lost. Yields
        nothing (and raises nothing) when the other side is not running: nobody is found, and the runtime goes upstream.
        """
        ...

    async def advertise(
        self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None:
        """Tell peers that these keys are held here; kept and renewed until withdrawn. Raises RouterUnavailable never:
        keys are remembered and told once the other side is up.

        `pulled` says of tags among them when they were pulled, in Unix time; telling one again corrects it."""
        ...

    async def withdraw(self, keys: Collection[str]) -> None:
        """Tell peers that these keys are no longer held here."""
        ...

    async def ready(self) -> bool:
        """Say whether at least one peer is connected."""
        ...


MAX_WORDS = 1024
"""Bytes of a question that a Courier carries, at most; the longest, an ask with a sha512 and a peer's id, has 300."""

MAX_ANSWER = 8 * 1024
"""Bytes of an answer, at most; the longest, a whole shape, has 4,000."""

Answerer = Callable[[str, bytes], bytes]
"""Answers a question of the peer with this id, which its connection has authenticated. It is called in any thread, and
may not wait; it raises ValueError for what is no question."""


class Courier(Protocol):
    """Carries short questions, and their answers, between the nodes that share what they are pulling."""

    @property
    def id(self) -> str:
        """This node's own peer id."""
        ...

    def partners(self) -> Mapping[str, Peer]:
        """Return the connected peers that take part, by id; this node is not among them."""
        ...

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever partners may have come or gone; whoever waits for it clears it."""
        ...

    def answer_with(self, answerer: Answerer) -> None:
        """Have partners' questions answered from now on; until then they are refused."""
        ...

    async def ask(self, peer_id: str, question: bytes, *, timeout: float) -> bytes:
        """Return a peer's answer. Raises PeerStalled after `timeout` seconds, PeerRefused where it does not answer such
        a question, or with more than MAX_ANSWER, PeerUnreachable."""
        ...
