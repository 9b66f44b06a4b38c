"""The members: connecting to every node there is, telling each what is held here, letting go of the silent ones.

One task tends each connected peer: it keeps the announce link up, or, for a node that speaks only standard Kademlia
(Spegel in Go), sends provider records and pings it. Members are found by asking for those near random places.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import structlog
import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.announce import PROTOCOL as ANNOUNCE
from spegel_py.routing.libp2p.announce import Link, say_goodbye
from spegel_py.routing.libp2p.frames import Hello
from spegel_py.routing.libp2p.kademlia import Contact, KademliaClient, strip_peer
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import LocalKeys, Plan, tells_everything
from spegel_py.routing.libp2p.thread import TaskStatus

log = structlog.get_logger(__name__)

DIAL_TIMEOUT = 3.0
"""Seconds for one dial with its handshakes: 11 ms when idle, but a node that starts up on a busy core needs longer."""
MAX_DIALS = 8
"""Dials at once: each costs about 20 ms of CPU at either end."""
DISCOVERY_INTERVAL = 60.0
"""Seconds between two looks for unknown members, each 15 ms of CPU; who joins is met at once, so this only mends."""
WATCH_INTERVAL = 0.5
"""Seconds between two looks for peers that fell silent."""
REFRESHES_PER_SECOND = 20
"""Refreshes sent per second at most: above interval × this many peers the interval grows with the cluster."""
REDIAL_DELAYS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds between attempts to reach a lost peer again; then it is left to discovery and bootstrap."""
LINK_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before telling a peer again after a failure; each new connection starts over."""
STANDARD_PING_INTERVAL, STANDARD_PING_TIMEOUT = 4.0, 4.0
"""Seconds: a peer without the announce protocol is pinged, so that a stopped one is let go within 8 s."""
STANDARD_REPROVIDE = 600.0
"""Seconds between full rounds of provider records; standard nodes keep them for 19 minutes and more."""
MAX_KNOWN = 10_000
"""Addresses of peers remembered, connected or not."""
REMEMBERED_DEPARTED = 256
"""Departed peers remembered, so that a stale hint of another node does not bring them back."""


class Mesh:
    """All peers of this node; it is the links' Situation too."""

    def __init__(
        self,
        *,
        host: BasicHost,
        table: RecordTable,
        local: LocalKeys,
        kademlia: KademliaClient,
        interval: float,
        registry_host: str,
        registry_port: int,
        agent: str,
        limit: int,
        replication: int,
        provider_addresses: Callable[[], list[Multiaddr]],
        rng: random.Random,
    ) -> None:
        self._host = host
        self._table = table
        self._local = local
        self._kademlia = kademlia
        self._base_interval = interval
        self._limit = limit
        self._plan = Plan(replication=replication)
        self._provider_addresses = provider_addresses
        self._rng = rng
        self._hello = Hello(interval, registry_host, registry_port, agent)
        self._everything = limit > 0
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._tasks: dict[ID, trio.CancelScope] = {}
        self._known: dict[ID, tuple[Multiaddr, ...]] = {}
        self._dialling: set[str] = set()
        self._dials = trio.CapacityLimiter(MAX_DIALS)
        self._own_addresses: set[str] = set()
        self._dialled: dict[str, ID] = {}
        self._ping = PingService(host)
        self._leaving = False

    def __repr__(self) -> str:
        return f"<Mesh {len(self._tasks)} peers, {'everything to all' if self._everything else 'closest only'}>"

    # The situation, for the links

    @property
    def hello(self) -> Hello:
        return self._hello

    @property
    def news(self) -> trio.Event:
        return self._news

    def part_for(self, peer: ID) -> Collection[bytes] | None:
        return None if self._everything else self._plan.part_for(peer.to_bytes(), self._local)

    def tell_news(self) -> None:
        """Wake every link: the local keys or the members changed."""
        self._news.set()
        self._news = trio.Event()

    # Lifetime

    async def run(self, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Tend peers until cancelled."""
        self._host.get_network().register_notifee(_Notifee(self))
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._discover)
            nursery.start_soon(self._watch)
            task_status.started()
            await trio.sleep_forever()

    async def say_goodbye(self, *, timeout: float) -> None:
        """Tell all peers that this node leaves; at most `timeout` seconds."""
        self._leaving = True
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for peer in list(self._tasks):
                    nursery.start_soon(self._goodbye, peer)

    async def _goodbye(self, peer: ID) -> None:
        with tolerating("goodbye failed", peer):
            await say_goodbye(self._host, peer)

    # Who is connected

    def peers(self) -> list[ID]:
        """Return the connected peers."""
        return list(self._tasks)

    def address_of(self, peer: ID) -> str | None:
        """Return the IP of a connected peer as seen from here."""
        for connection in self._host.get_network().get_connections(peer):
            if ip := compat.remote_ip(connection):
                return ip
        return None

    def contact(self, peer: ID) -> Contact:
        """Return a connected peer with the addresses it announces itself."""
        try:
            addresses = tuple(strip_peer(address) for address in self._host.get_peerstore().addrs(peer))
        except Exception:  # noqa: BLE001 - py-libp2p raises where a peer has no addresses yet
            addresses = ()
        if addresses:
            self._known[peer] = addresses
        return Contact(peer, self._known.get(peer, ()))

    def arrived(self, peer: ID) -> None:
        """Take up a peer that connected."""
        if self._nursery is None or peer in self._tasks:
            return
        self._tasks[peer] = trio.CancelScope()
        self._table.peer_connected(str(peer))
        log.info("peer connected", peer=str(peer), address=self.address_of(peer), peers=len(self._tasks))
        self._members_changed()
        self._nursery.start_soon(self._tend, peer, self._tasks[peer])

    def lost(self, peer: ID, *, why: str) -> None:
        """Let go of a peer that did not say goodbye, and try to reach it again for a while."""
        if self._nursery is None or peer not in self._tasks:
            return
        self.contact(peer)  # remember its addresses
        self._drop(peer, why=why)
        if not self._leaving:
            self._nursery.start_soon(self._reach_again, peer)

    def left(self, peer: ID) -> None:
        """Let go of a peer that said goodbye."""
        self._known.pop(peer, None)
        self._drop(peer, why="goodbye")
        if self._nursery is not None:
            self._nursery.start_soon(self._hang_up, peer)

    def _drop(self, peer: ID, *, why: str) -> None:
        """Offer nothing that the peer announced any more, and stop tending it."""
        self._table.peer_disconnected(str(peer))
        self._table.forget_departed(REMEMBERED_DEPARTED)
        self._kademlia.forget(peer)
        if scope := self._tasks.pop(peer, None):
            log.info("peer gone", peer=str(peer), why=why, peers=len(self._tasks))
            self._members_changed()
            scope.cancel()

    def _members_changed(self) -> None:
        self._plan.members([peer.to_bytes() for peer in self._tasks])
        nodes = len(self._tasks) + 1
        everything = tells_everything(self._everything, nodes=nodes, limit=self._limit)
        if everything != self._everything:
            log.info("announcing to all" if everything else "announcing to the closest", nodes=nodes)
        self._everything = everything
        interval = max(self._base_interval, round(len(self._tasks) / REFRESHES_PER_SECOND, 1))
        self._hello = Hello(interval, self._hello.host, self._hello.port, self._hello.agent)
        self.tell_news()

    # Tending one peer

    async def _tend(self, peer: ID, scope: trio.CancelScope) -> None:
        with scope, tolerating("tending a peer failed", peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._explore, peer)
                await self._keep_told(peer)

    async def _keep_told(self, peer: ID) -> None:
        """Tell a peer what is held here by the best way it speaks, again after every failure, ever less often."""
        for delay in itertools.chain(LINK_DELAYS, itertools.repeat(LINK_DELAYS[-1])):
            with tolerating("telling a peer failed", peer):
                if self._speaks_announce(peer) is False:
                    await self._keep_told_by_records(peer)
                else:
                    await Link(host=self._host, peer=peer, local=self._local, situation=self).run()
            await trio.sleep(delay)

    def _speaks_announce(self, peer: ID) -> bool | None:
        """Say what the peer's identify message listed; None while it has not come."""
        try:
            protocols = self._host.get_peerstore().get_protocols(peer)
        except Exception:  # noqa: BLE001 - py-libp2p raises where it knows nothing of a peer yet
            return None
        return (ANNOUNCE in protocols) if protocols else None

    async def _keep_told_by_records(self, peer: ID) -> None:
        """Serve a peer without the announce protocol: provider records now and whenever keys come, and pings."""
        log.info("peer speaks standard kademlia only", peer=str(peer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_pinging, peer)
            told: set[bytes] = set()
            renew = trio.current_time() + STANDARD_REPROVIDE
            while True:
                news = self._news
                part = self._plan.part_for(peer.to_bytes(), self._local)
                if trio.current_time() >= renew:
                    told.clear()
                    renew = trio.current_time() + STANDARD_REPROVIDE
                if missing := part - told:
                    await self._kademlia.add_providers(peer, missing, self._provider_addresses())
                told = set(part)
                with trio.move_on_at(renew):
                    await news.wait()

    async def _keep_pinging(self, peer: ID) -> None:
        while True:
            await trio.sleep(STANDARD_PING_INTERVAL)
            try:
                with trio.fail_after(STANDARD_PING_TIMEOUT):
                    await self._ping.ping(peer)
            except Exception as error:  # noqa: BLE001 - any failure means the same
                self.lost(peer, why=f"no pong: {error!r}")

    async def _hang_up(self, peer: ID) -> None:
        with tolerating("hanging up failed", peer), compat.shielded(2):
            await self._host.disconnect(peer)

    # Finding members

    async def meet(self, contacts: Iterable[Contact]) -> None:
        """Connect to those of the contacts that are not connected yet; returns when all were tried."""
        async with trio.open_nursery() as nursery:
            for contact in contacts:
                if contact.id != self._host.get_id() and contact.id not in self._tasks:
                    nursery.start_soon(self.reach, contact.addresses, contact.id)

    async def reach(self, addresses: Iterable[Multiaddr], expected: ID | None) -> bool:
        """Try the addresses in turn; `expected` is the peer's id where it is known. Says whether one was connected.

        Addresses of peers that are connected, of this node itself, and those being dialled are passed over.
        """
        for address in addresses:
            text = str(strip_peer(address))
            if text in self._own_addresses or text in self._dialling or self._is_connected(text, expected):
                continue
            self._dialling.add(text)
            try:
                async with self._dials:
                    found = await compat.dial(self._host, Multiaddr(text), expected=expected, timeout=DIAL_TIMEOUT)
                    self._dialled[text] = found
                    return True
            except PeerUnreachable as error:
                if "this node itself" in str(error):
                    self._own_addresses.add(text)
                log.debug("dial failed", address=text, error=str(error))
            finally:
                self._dialling.discard(text)
        return False

    def _is_connected(self, text: str, expected: ID | None) -> bool:
        if expected is not None:
            return expected in self._tasks
        if self._dialled.get(text) in self._tasks:
            return True
        return any(text == str(address) for peer in self._tasks for address in self.contact(peer).addresses)

    async def _explore(self, peer: ID) -> None:
        """Ask a peer for those near this node and near a random place, and connect to them."""
        with tolerating("exploring failed", peer):
            for target in (self._host.get_id().to_bytes(), os.urandom(34)):
                found = await self._kademlia.find_node(peer, target)
                for contact in found[: max(0, MAX_KNOWN - len(self._known))]:
                    self._known.setdefault(contact.id, contact.addresses)
                await self.meet(found)

    async def _discover(self) -> None:
        while True:
            await trio.sleep(DISCOVERY_INTERVAL * self._rng.uniform(0.8, 1.2))
            if self._tasks:
                await self._explore(self._rng.choice(list(self._tasks)))

    async def _watch(self) -> None:
        """Let go of peers that stopped refreshing though their connection stands (a stopped or starved process)."""
        while True:
            await trio.sleep(WATCH_INTERVAL)
            now = time.monotonic()
            for name in self._table.silent(now):
                self.lost(ID.from_base58(name), why="silent")
            self._table.expire(now)

    async def _reach_again(self, peer: ID) -> None:
        await self._hang_up(peer)
        for delay in REDIAL_DELAYS:
            await trio.sleep(delay * self._rng.uniform(0.7, 1.3))
            if peer in self._tasks or peer not in self._known:
                return
            with tolerating("reaching a peer again failed", peer):
                await self.reach(self._known[peer], peer)
        self._known.pop(peer, None)


@contextmanager
def tolerating(event: str, peer: ID) -> Iterator[None]:
    """Let nothing that goes wrong with one peer go further: it is logged for debugging, and that is all.

    py-libp2p raises many kinds of exceptions, and Trio groups them: with a cancellation too, where one comes at the
    same moment; that one goes on, as it must.
    """
    try:
        yield
    except* Exception as group:  # noqa: BLE001 - that is what this is for
        log.debug(event, peer=str(peer), error=repr(group))


class _Notifee(INotifee):
    """Passes connections' coming and going from the swarm to the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._mesh.arrived(conn.muxed_conn.peer_id)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id
        if not network.get_connections(peer):
            self._mesh.lost(peer, why="connection closed")

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest here."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest here."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Of no interest here."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Of no interest here."""
