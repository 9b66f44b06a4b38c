"""The content of this node's announcements; a change of it wakes the announce streams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import structlog
import trio
from libp2p.peer.id import ID

from spegel_py.routing.libp2p.bounds import bound_key
from spegel_py.routing.libp2p.frames import Hello
from spegel_py.routing.libp2p.identity import PasswordProof
from spegel_py.routing.libp2p.sharing import (
    KeyPlacement,
    LocalKeys,
    announces_everything,
    next_interval,
)

log = structlog.get_logger(__name__)


class AnnounceContext:
    """The hello, the keys for each peer and the interval, as the members are now.

    Args:
        own: this node's peer id.
        hello: the first hello; its interval grows with the cluster.
        limit: members up to which every peer is sent every key.
        replication: peers that are sent each key in a larger cluster.
    """

    def __init__(
        self,
        *,
        own: ID,
        local: LocalKeys,
        hello: Hello,
        limit: int,
        replication: int,
        password: PasswordProof,
    ) -> None:
        self._own = own
        self._base_interval = hello.interval
        self._limit = limit
        self._placement = KeyPlacement(replication=replication)
        self._password = password
        self._everything = limit > 0
        self.local = local
        self.hello = hello
        self.news = trio.Event()
        """Set, and replaced by a fresh event, when there may be something new to announce."""

    def __repr__(self) -> str:
        return f"<AnnounceContext {'everything to all' if self._everything else 'closest only'}>"

    @property
    def base_interval(self) -> float:
        """Seconds between two announcements in a small cluster."""
        return self._base_interval

    def part_for(self, peer: ID) -> Collection[bytes] | None:
        """Return the keys that a peer should hold, None for all."""
        return None if self._everything else self.closest_part(peer)

    def closest_part(self, peer: ID) -> Collection[bytes]:
        """Return the local keys to which a peer is one of the closest."""
        return self._placement.part_for(peer.to_bytes(), self.local)

    def proof_for(self, peer: ID) -> str:
        """Return the proof for a peer that this node knows the cluster's password, if it does."""
        return self._password.make(by=self._own, to=peer)

    def knows_password(self, peer: ID, proof: str) -> bool:
        """Return True if a peer's proof shows that it knows the password of this node."""
        return self._password.is_right(proof, by=peer, to=self._own)

    def wake(self) -> None:
        """Wake every stream: the local keys or the members changed."""
        self.news.set()
        self.news = trio.Event()

    def set_members(self, connected: Mapping[ID, str]) -> None:
        """Set the connected peers, each with the IP address it is connected from.

        Peers at one address count as one node: one machine cannot make a cluster look so large that
        its nodes stop sending each other everything.
        """
        self._placement.set_members([peer.to_bytes() for peer in connected])
        nodes = 1 + len({bound_key(address, str(peer)) for peer, address in connected.items()})
        everything = announces_everything(self._everything, nodes=nodes, limit=self._limit)
        if everything != self._everything:
            log.info(
                "announcing to all" if everything else "announcing to the closest", nodes=nodes
            )
        self._everything = everything
        interval = next_interval(
            self.hello.interval, base=self._base_interval, peers=len(connected)
        )
        self.hello = replace(self.hello, interval=interval)
        self.wake()
