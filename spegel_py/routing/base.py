"""The port of the router: who holds a key, and telling others what is held here."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Another node: its libp2p peer id (base58) and the host (an IP literal) and port of its registry."""

    id: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.authority}({self.id[-6:]})"

    @property
    def authority(self) -> str:
        """`host:port` as it stands in a URL; IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a node knows of a peer it is connected with: the keys it holds, and for peers that announce (the others
    speak standard Kademlia only) when it was heard from, in seconds ago, and by how many seconds its clock is ahead.
    """

    id: str
    address: str
    agent: str
    keys: int
    heard: float | None
    skew: float | None


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

    async def advertise(self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING) -> None:
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
