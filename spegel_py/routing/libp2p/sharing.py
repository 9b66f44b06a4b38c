"""This node's own keys, and the announcements that bring each peer up to date with them.

Case 1, a small cluster: every peer is sent every key, so each node answers any lookup from its own
table.
Case 2, a large cluster: a key goes to the peers closest to it, as in Kademlia.

`AnnounceContext` decides between the two cases. A `PeerSyncState` holds what one peer was sent. It
starts with the whole set, goes on with deltas, and follows a change of case by itself. All but the
event that wakes the announce streams is pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import structlog
import trio
from libp2p.peer.id import ID

from spegel_py.routing.libp2p.bounds import count_nodes
from spegel_py.routing.libp2p.frames import (
    KEYS_PER_FRAME,
    MAX_INTERVAL,
    Ages,
    Delta,
    Frame,
    Hello,
    Refresh,
    SetPart,
    set_parts,
)
from spegel_py.routing.libp2p.holders import checksum
from spegel_py.routing.libp2p.identity import PasswordProof
from spegel_py.routing.libp2p.keys import closest, position, record_key
from spegel_py.routing.peer_proofs import NodeSecret, ToldKey

log = structlog.get_logger(__name__)

LOG_LENGTH = 512
"""Changes remembered for deltas. A peer further behind gets the whole set again."""
REFRESHES_PER_SECOND = 20
"""Refreshes sent in a second at most. With more peers than interval × this number, the interval
grows with the cluster."""
RARELY, RARE_PER_SECOND = 75, 1
"""Intervals between two refreshes to a peer that watches this node by pings, and the most of those
refreshes in a second. With the default interval that is 5 min up to 300 peers."""
ROOM = 1.25
"""Factor by which a grown interval exceeds the needed one, so that the next peers change
nothing."""
HYSTERESIS = 0.9
"""Share of the limit below which a large cluster counts as small again, so that one node that comes
and goes switches nothing."""


class LocalKeys:
    """The keys this node advertises, with a short log of changes.

    `pulled` holds when the tags among them were pulled, on the caller's clock; `pulls` counts its
    changes.
    """

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.pulled: dict[bytes, float] = {}
        self.pulls = 0
        self.version = 0
        self.checksum = 0
        self._log: deque[Delta] = deque(maxlen=LOG_LENGTH)
        self._whole: tuple[SetPart, ...] | None = None

    def __repr__(self) -> str:
        return f"<LocalKeys {len(self.keys)} keys, version {self.version}>"

    def add(self, keys: Iterable[bytes]) -> bool:
        """Add keys. Return True if any was new."""
        return self._change(True, tuple(key for key in dict.fromkeys(keys) if key not in self.keys))

    def remove(self, keys: Iterable[bytes]) -> bool:
        """Remove keys. Return True if any was there."""
        gone = tuple(key for key in dict.fromkeys(keys) if key in self.keys)
        for key in gone:
            self.pulled.pop(key, None)
        return self._change(False, gone)

    def record_pulls(self, pulled: Mapping[bytes, float]) -> bool:
        """Record when tags among the keys were pulled. Return True if any time is new."""
        fresh = {
            key: at for key, at in pulled.items() if key in self.keys and self.pulled.get(key) != at
        }
        self.pulled.update(fresh)
        self.pulls += bool(fresh)
        return bool(fresh)

    def _change(self, added: bool, keys: tuple[bytes, ...]) -> bool:
        if not keys:
            return False
        (self.keys.update if added else self.keys.difference_update)(keys)
        self.checksum ^= checksum(keys)
        self.version += 1
        self._log.append(Delta(added, keys))
        self._whole = None
        return True

    def whole(self) -> tuple[SetPart, ...]:
        """Return all keys in parts. All peers are sent the same ones, so they are made once."""
        if self._whole is None:
            self._whole = tuple(set_parts(list(self.keys), complete=True))
        return self._whole

    def since(self, version: int) -> list[Delta] | None:
        """Return the changes after `version`, oldest first; None if the log is too short."""
        missing = self.version - version
        if missing > len(self._log):
            return None
        return list(self._log)[len(self._log) - missing :] if missing else []


class PeerSyncState:
    """The keys sent to one peer, and the frames that it should get next."""

    def __init__(self) -> None:
        self._version = -1
        self._sent: set[bytes] | None = None
        self._count = 0
        self._checksum = 0
        self._started = False
        self._pulls = 0
        self._aged: dict[bytes, float] = {}

    def restart(self) -> None:
        """Start again with the whole set: the peer is out of step."""
        self._started = False

    def next_frames(
        self, local: LocalKeys, part: Collection[bytes] | None, now: float
    ) -> list[Frame]:
        """Return the frames that bring the peer up to date.

        Args:
            part: the keys the peer should hold, None for all.
            now: the time on the clock of `local.pulled`.
        """
        if not self._started or (part is None) != (self._sent is None):
            frames = self._whole(local, part)
        else:
            frames = (
                self._everything_changed(local) if part is None else self._part_changed(set(part))
            )
        if frames or self._pulls != local.pulls:
            frames += self._ages(local, now)
        return frames

    def refresh(self) -> Refresh:
        """Return the frame with the count and checksum of the keys that were sent."""
        return Refresh(self._count, self._checksum)

    def _whole(self, local: LocalKeys, part: Collection[bytes] | None) -> list[Frame]:
        self._started, self._version = True, local.version
        self._aged = {}
        if part is None:
            self._sent = None
            self._count, self._checksum = len(local.keys), local.checksum
            return list(local.whole())
        self._sent = set(part)
        self._count, self._checksum = len(self._sent), checksum(self._sent)
        return list(set_parts(list(self._sent), complete=False))

    def _everything_changed(self, local: LocalKeys) -> list[Frame]:
        changes = local.since(self._version)
        if changes is None:
            return self._whole(local, None)
        self._version, self._count, self._checksum = local.version, len(local.keys), local.checksum
        return [frame for change in changes for frame in _bounded(change.added, change.keys)]

    def _part_changed(self, part: set[bytes]) -> list[Frame]:
        assert self._sent is not None  # noqa: S101 - next_frames checked it
        came, went = part - self._sent, self._sent - part
        self._sent = part
        self._count, self._checksum = len(part), self._checksum ^ checksum(came) ^ checksum(went)
        return [*_bounded(True, tuple(came)), *_bounded(False, tuple(went))]

    def _ages(self, local: LocalKeys, now: float) -> list[Frame]:
        """Return the new pull times of the tags that the peer was sent."""
        told = (
            local.pulled
            if self._sent is None
            else {k: at for k, at in local.pulled.items() if k in self._sent}
        )
        fresh = [
            (key, max(0, round(now - at))) for key, at in told.items() if self._aged.get(key) != at
        ]
        self._aged, self._pulls = dict(told), local.pulls
        return [
            Ages(tuple(fresh[i : i + KEYS_PER_FRAME])) for i in range(0, len(fresh), KEYS_PER_FRAME)
        ]


def _bounded(added: bool, keys: tuple[bytes, ...]) -> list[Frame]:
    return [Delta(added, keys[i : i + KEYS_PER_FRAME]) for i in range(0, len(keys), KEYS_PER_FRAME)]


def announces_everything(before: bool, *, nodes: int, limit: int) -> bool:
    """Return True if a cluster of `nodes` is small enough to send all keys to all nodes."""
    return nodes <= (limit if before else limit * HYSTERESIS)


def next_interval(
    before: float, *, base: float, peers: int, per_second: float = REFRESHES_PER_SECOND
) -> float:
    """Return the seconds between refreshes for so many peers: `base`, or more in a large cluster.

    The interval grows in steps, with room for a quarter more peers, since every peer must be sent
    each change.
    """
    least = max(base, peers / per_second)
    if least == base:
        return base
    return before if least <= before <= least * ROOM**2 else round(least * ROOM, 1)


class KeyPlacement:
    """Which keys go to which peers, in a large cluster and for peers of standard Kademlia.

    Computing the closest peers of a key takes 0.04 ms with 200 peers, so the result is kept until
    the members change.
    """

    def __init__(self, *, replication: int) -> None:
        self._replication = replication
        self._peers: dict[bytes, int] = {}
        self._closest: dict[bytes, list[bytes]] = {}
        self._parts: dict[bytes, set[bytes]] = {}
        self._version = -1

    def set_members(self, peers: Collection[bytes]) -> None:
        """Set the peer ids (bytes) to choose from."""
        if set(peers) != self._peers.keys():
            self._peers = {peer: position(peer) for peer in peers}
            self._closest.clear()
            self._version = -1

    def part_for(self, peer: bytes, local: LocalKeys) -> set[bytes]:
        """Return the local keys to which `peer` is one of the closest."""
        if len(self._peers) <= self._replication:
            return local.keys
        if self._version != local.version:
            self._work_out(local)
        return self._parts.get(peer, set())

    def _work_out(self, local: LocalKeys) -> None:
        places = [(place, peer) for peer, place in self._peers.items()]
        self._parts = {peer: set() for peer in self._peers}
        for key in local.keys:
            if key not in self._closest:
                self._closest[key] = closest(position(record_key(key)), places, self._replication)
            for peer in self._closest[key]:
                self._parts[peer].add(key)
        self._version = local.version
        for key in self._closest.keys() - local.keys:
            del self._closest[key]


class AnnounceContext:
    """The hello, the keys for each peer and the interval, as the members are now.

    Args:
        own: this node's peer id.
        hello: the first hello; its interval grows with the cluster.
        limit: members up to which every peer is sent every key.
        replication: peers that are sent each key in a larger cluster.
        secret: the secret from which peers' keys for HTTP requests are derived, None for none.
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
        secret: NodeSecret | None = None,
    ) -> None:
        self._own = own
        self._secret = secret
        self._base_interval = hello.interval
        self._rare_base = self._rare_interval = min(RARELY * hello.interval, MAX_INTERVAL)
        self._limit = limit
        self._placement = KeyPlacement(replication=replication)
        self._members: Mapping[ID, str] = {}
        self._is_placed = False  # keys among the members, for some peer that is told a part
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

    def hello_for(self, *, pings_too: bool) -> Hello:
        """Return the hello for a peer: one that watches this node by pings is refreshed rarely."""
        if not (pings_too and self.hello.pings):
            return self.hello
        return replace(self.hello, interval=self._rare_interval)

    def part_for(self, peer: ID) -> Collection[bytes] | None:
        """Return the keys that a peer should hold, None for all."""
        return None if self._everything else self.closest_part(peer)

    def closest_part(self, peer: ID) -> Collection[bytes]:
        """Return the local keys to which a peer is one of the closest."""
        if not self._is_placed:
            self._placement.set_members([peer.to_bytes() for peer in self._members])
            self._is_placed = True
        return self._placement.part_for(peer.to_bytes(), self.local)

    def proof_for(self, peer: ID) -> str:
        """Return the proof for a peer that this node knows the cluster's password, if it does."""
        return self._password.make(by=self._own, to=peer)

    def knows_password(self, peer: ID, proof: str) -> bool:
        """Return True if a peer's proof shows that it knows the password of this node."""
        return self._password.is_right(proof, by=peer, to=self._own)

    @property
    def key_hour(self) -> int:
        """The hour of the keys that peers are told now; 0 if they are told none."""
        return 0 if self._secret is None else self._secret.hour

    def key_for(self, peer: ID) -> ToldKey | None:
        """Return a peer's key for HTTP requests to this node."""
        return None if self._secret is None else self._secret.tell(str(peer))

    def wake(self) -> None:
        """Wake every stream: the local keys or the members changed."""
        self.news.set()
        self.news = trio.Event()

    def set_members(self, connected: Mapping[ID, str]) -> None:
        """Set the connected peers, each with the IP address it is connected from.

        The streams are woken if one of them may have something new to announce. A peer that comes
        or goes where all are sent everything wakes none: a thousand peers would wake a thousand
        streams each.

        Peers at one address count as one node: one machine cannot make a cluster look so large that
        its nodes stop sending each other everything.
        """
        before = self._everything, self.hello, self._rare_interval
        self._members = connected
        nodes = 1 + count_nodes(connected.values())
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
        rare = next_interval(
            self._rare_interval,
            base=self._rare_base,
            peers=len(connected),
            per_second=RARE_PER_SECOND,
        )
        self._rare_interval = min(rare, MAX_INTERVAL)
        if self._is_placed or before != (self._everything, self.hello, self._rare_interval):
            self._is_placed = False
            self.wake()
