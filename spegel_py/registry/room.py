"""How many connections a port takes, and which one is hung up for a new one. Pure.

Descriptors and memory are finite, and whoever reaches a port can open connections. So connections
are counted for each address. Where there is no room, the connection that has been idle for longest
is hung up: its client opens another one when it has something to ask.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

RESERVED = 256
"""Descriptors that are kept from connections of clients: for libp2p's peers, containerd, and files."""

REGISTRY, METRICS = 5120, 640
"""Connections that the registry's and the metrics' port take at most, of this host and others."""

LOOKED_AT = 128
"""Connections that are looked at, to find an idle one, for each new one."""

TELL = 60.0
"""Seconds between two log records of refusals, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The numbers of connections that a port takes.

    Args:
        own: From addresses of this host, in all. Nobody else can take these, so that the node's
            runtime is served however many connections others have.
        overall: From all other hosts together.
        per_address: From one other address; for IPv6 from one /64, which is what one host gets.
            It is a quarter of `overall`, which is generous, because on Kubernetes the requests of
            a node's runtime, or of many nodes, may all come from one address: a host port or a
            node port can hide the client's address behind that of a bridge or a node.
    """

    own: int = 1024
    overall: int = 4096
    per_address: int = 1024

    @classmethod
    def of(cls, connections: int) -> Room:
        """Return how so many connections are divided."""
        own = max(1, connections // 5)
        overall = max(1, connections - own)
        return cls(own=own, overall=overall, per_address=max(1, overall // 4))

    @classmethod
    def of_registry(cls, descriptors: int) -> Room:
        """Return the room of the registry's port where so many descriptors may be open.

        A connection that a body is sent through has up to five descriptors more, but of those
        there are few; so half of the descriptors are for connections.
        """
        return cls.of(min(REGISTRY, _shared(descriptors) * 7 // 8))

    @classmethod
    def of_metrics(cls, descriptors: int) -> Room:
        """Return the room of the metrics' port where so many descriptors may be open."""
        return cls.of(min(METRICS, _shared(descriptors) // 8))


def _shared(descriptors: int) -> int:
    return max(0, descriptors - RESERVED) // 2


class Held(Protocol):
    """A connection that can be hung up."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered on it: between two, or before a head is complete."""
        ...

    def force_close(self) -> None:
        """Hang up."""
        ...


class Connections:
    """The connections of one port, each group in the order in which they were used last."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room()
        self._groups: dict[str, dict[Held, None]] = {}
        self._others: dict[Held, None] = {}
        self._group_of: dict[Held, str] = {}
        self._told = -math.inf
        self.lingering = 0
        """Connections that are half-closed."""

    def __repr__(self) -> str:
        return f"<Connections: {len(self._group_of)} of {len(self._groups)} addresses>"

    def __len__(self) -> int:
        return len(self._group_of)

    def admit(self, connection: Held, client: str, host: str) -> bool:
        """Count a new connection of an address to an address of this host; False if it finds no room.

        The connection that has been idle for longest is hung up for it: of the same address where
        that has enough, else of all others. It finds no room where none of these is idle.
        """
        name = group(client, host)
        if (full := self._full(name)) is not None:
            idle = _idle(full)
            if idle is None:
                return False
            self.leave(idle)
            idle.force_close()
        self._group_of[connection] = name
        self._groups.setdefault(name, {})[connection] = None
        if name != OWN:
            self._others[connection] = None
        return True

    def used(self, connection: Held) -> None:
        """Note that a connection was used just now."""
        if (name := self._group_of.get(connection)) is not None:
            _to_the_end(self._groups[name], connection)
            if name != OWN:
                _to_the_end(self._others, connection)

    def leave(self, connection: Held) -> None:
        """Forget a connection that has ended, if it was counted."""
        if (name := self._group_of.pop(connection, None)) is None:
            return
        self._others.pop(connection, None)
        members = self._groups[name]
        del members[connection]
        if not members:
            del self._groups[name]

    def is_news(self, now: float) -> bool:
        """Return True where a refusal is to be logged: a stranger can cause thousands, one a minute is."""
        if now < self._told + TELL:
            return False
        self._told = now
        return True

    def _full(self, name: str) -> dict[Held, None] | None:
        """Return the connections of which one has to go for a new one of this group, None if none has to."""
        members = self._groups.get(name, {})
        if len(members) >= (self._room.own if name == OWN else self._room.per_address):
            return members
        return self._others if name != OWN and len(self._others) >= self._room.overall else None


OWN = "this host"
"""The group of all connections that come from this host."""


def group(client: str, host: str) -> str:
    """Return the group of a client's address that has connected to an address of this host."""
    client, host = client.removeprefix("::ffff:"), host.removeprefix("::ffff:")
    if client == host or client == "::1" or client.startswith("127."):
        return OWN
    if ":" not in client:
        return client
    try:
        return socket.inet_pton(socket.AF_INET6, client.partition("%")[0])[:8].hex()
    except OSError:
        return client


def _idle(members: dict[Held, None]) -> Held | None:
    """Return the connection that has been idle for longest; those in use go to the end."""
    for connection in list(islice(members, LOOKED_AT)):
        if connection.is_idle:
            return connection
        _to_the_end(members, connection)
    return None


def _to_the_end(members: dict[Held, None], connection: Held) -> None:
    del members[connection]
    members[connection] = None
