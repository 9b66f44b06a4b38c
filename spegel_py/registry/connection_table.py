"""The limits on connections to a port, and the choice of a connection to close for a new one. Pure.

Descriptors and memory are finite, and any client that reaches a port can open connections. So
connections are counted for each address. If a limit is reached, the connection with the longest
idle time is closed. Its client opens a new connection when it has another request.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

RESERVED = 256
"""Descriptors that clients cannot take: for libp2p's peers, containerd, and files."""

REGISTRY, METRICS = 5120, 640
"""Connections to the registry's and to the metrics port at most, from this host and others."""

LOOKED_AT = 128
"""Connections that are checked for each new connection, to find an idle connection."""

LOG_INTERVAL = 60.0
"""Seconds between two log records of refusals, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The numbers of connections that a port accepts.

    Args:
        own: From addresses of this host, in all. No other host can take these, so the runtime of
            this node is served however many connections others have.
        overall: From all other hosts together.
        per_address: From one other address, for IPv6 from one /64, since a host gets a whole /64.
            It is a quarter of `overall`. That is generous, because on Kubernetes the requests of a
            node's runtime, or of many nodes, may all come from one address: a host port or a node
            port can replace the client's address with the address of a bridge or of a node.
    """

    own: int = 1024
    overall: int = 4096
    per_address: int = 1024

    @classmethod
    def of(cls, connections: int) -> ConnectionLimits:
        """Return the limits for a port with this number of connections."""
        own = max(1, connections // 5)
        overall = max(1, connections - own)
        return cls(own=own, overall=overall, per_address=max(1, overall // 4))

    @classmethod
    def of_registry(cls, descriptors: int) -> ConnectionLimits:
        """Return the limits of the registry's port for this number of open descriptors.

        A connection that sends a body has up to five more descriptors, but such connections are
        few. So half of the descriptors are for connections.
        """
        return cls.of(min(REGISTRY, _shared(descriptors) * 7 // 8))

    @classmethod
    def of_metrics(cls, descriptors: int) -> ConnectionLimits:
        """Return the limits of the metrics port for this number of open descriptors."""
        return cls.of(min(METRICS, _shared(descriptors) // 8))


def _shared(descriptors: int) -> int:
    return max(0, descriptors - RESERVED) // 2


class HeldConnection(Protocol):
    """A connection that can be closed."""

    @property
    def is_idle(self) -> bool:
        """Return True between two requests, and before the first head is complete."""
        ...

    def force_close(self) -> None:
        """Close the connection at once."""
        ...


class ConnectionTable:
    """The connections of one port, each group in the order of their last use."""

    def __init__(self, limits: ConnectionLimits | None = None) -> None:
        self._limits = limits or ConnectionLimits()
        self._groups: dict[str, dict[HeldConnection, None]] = {}
        self._others: dict[HeldConnection, None] = {}
        self._group_of: dict[HeldConnection, str] = {}
        self._last_logged = -math.inf
        self.lingering = 0
        """The number of half-closed connections."""

    def __repr__(self) -> str:
        return f"<ConnectionTable: {len(self._group_of)} of {len(self._groups)} addresses>"

    def __len__(self) -> int:
        return len(self._group_of)

    def admit(self, connection: HeldConnection, client: str, host: str) -> bool:
        """Count a new connection; return False if a limit is reached.

        If the limit of the client's address is reached, that address's longest idle connection is
        closed to make room. If the limit of all other hosts is reached, their longest idle
        connection is closed. Without an idle connection the new one is refused.

        Args:
            connection: the new connection.
            client: the address of the client.
            host: the address of this host to which the client connected.
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

    def used(self, connection: HeldConnection) -> None:
        """Record that a connection is in use now."""
        if (name := self._group_of.get(connection)) is not None:
            _to_the_end(self._groups[name], connection)
            if name != OWN:
                _to_the_end(self._others, connection)

    def leave(self, connection: HeldConnection) -> None:
        """Remove a connection that has ended, if it was counted."""
        if (name := self._group_of.pop(connection, None)) is None:
            return
        self._others.pop(connection, None)
        members = self._groups[name]
        del members[connection]
        if not members:
            del self._groups[name]

    def should_log(self, now: float) -> bool:
        """Return True if a refusal should be logged: at most one a minute is."""
        if now < self._last_logged + LOG_INTERVAL:
            return False
        self._last_logged = now
        return True

    def _full(self, name: str) -> dict[HeldConnection, None] | None:
        """Return the connections that share the limit reached, None if no limit is reached."""
        members = self._groups.get(name, {})
        if len(members) >= (self._limits.own if name == OWN else self._limits.per_address):
            return members
        return self._others if name != OWN and len(self._others) >= self._limits.overall else None


OWN = "this host"
"""The group of all connections that come from this host."""


def group(client: str, host: str) -> str:
    """Return the group of a client by its address and the address of this host."""
    client, host = client.removeprefix("::ffff:"), host.removeprefix("::ffff:")
    if client == host or client == "::1" or client.startswith("127."):
        return OWN
    if ":" not in client:
        return client
    try:
        return socket.inet_pton(socket.AF_INET6, client.partition("%")[0])[:8].hex()
    except OSError:
        return client


def _idle(members: dict[HeldConnection, None]) -> HeldConnection | None:
    """Return the connection with the longest idle time; connections in use move to the end."""
    for connection in list(islice(members, LOOKED_AT)):
        if connection.is_idle:
            return connection
        _to_the_end(members, connection)
    return None


def _to_the_end(members: dict[HeldConnection, None], connection: HeldConnection) -> None:
    del members[connection]
    members[connection] = None
