"""Nodes that share one identity (a copied disk, a baked image): each hides the other one.

A process is known by its Noise key, which it makes when it starts. Two facts show a duplicate:

1. An address answers with this node's own identity, but from another process.
2. A peer is connected twice, from two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog
import trio
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID

from spegel_py.routing.libp2p import compat, mesh_swarm

log = structlog.get_logger(__name__)

REMEMBERED = 150.0
"""Seconds after which a duplicate that was not seen again is forgotten: addresses are dialled once
a minute at least."""
PATIENCE = 10.0
"""Seconds for which a peer must be connected from two processes: a peer that has restarted looks
the same until its old connections have ended."""
MAX_DUPLICATES = 16
"""Duplicates remembered at a time."""


class DuplicateIdentities:
    """The duplicates that were seen lately; `clock` is monotonic, in seconds."""

    def __init__(self, host: BasicHost, *, clock: Callable[[], float]) -> None:
        self._host = host
        self._clock = clock
        self._seen: dict[str, tuple[float, str]] = {}
        self._watched: set[ID] = set()

    def __repr__(self) -> str:
        return f"<DuplicateIdentities {sorted(self._seen)}>"

    def current(self) -> Mapping[str, str]:
        """Return the duplicates by address or peer id, each with a sentence for people."""
        oldest = self._clock() - REMEMBERED
        self._seen = {
            subject: (at, detail)
            for subject, (at, detail) in list(self._seen.items())
            if at >= oldest
        }
        return {subject: detail for subject, (_, detail) in self._seen.items()}

    def record_address(self, address: str) -> None:
        """Record that another process answers at an address with this node's identity."""
        self._record(address, f"{address} answers with the identity of this node")

    def needs_watch(self, peer: ID) -> bool:
        """Return True if a peer is connected from several processes and is not watched yet."""
        return peer not in self._watched and len(self._processes(peer)) > 1

    async def watch(self, peer: ID) -> None:
        """Record a peer while it stays connected from several processes."""
        self._watched.add(peer)
        try:
            await trio.sleep(PATIENCE)
            while len(processes := self._processes(peer)) > 1:
                addresses = " and from ".join(sorted(processes.values()))
                self._record(str(peer), f"it is connected from {addresses}")
                await trio.sleep(REMEMBERED / 3)
        finally:
            self._watched.discard(peer)

    def _record(self, subject: str, detail: str) -> None:
        if subject not in self.current():
            log.warning(
                "two nodes share one identity: remove private.key from the data directory of one, "
                "and restart it",
                subject=subject,
                detail=detail,
            )
        if subject in self._seen or len(self._seen) < MAX_DUPLICATES:
            self._seen[subject] = (self._clock(), detail)

    def _processes(self, peer: ID) -> dict[bytes, str]:
        """Return the keys of the processes that a peer is connected from, with their addresses."""
        connections = self._host.get_network().get_connections(peer)
        return {compat.process_key(each): mesh_swarm.remote_ip(each) or "" for each in connections}
