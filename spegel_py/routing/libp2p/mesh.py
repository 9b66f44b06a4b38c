"""The members: keeping a connection to every node, announcing to each, and dropping silent ones.

One task tends each connected peer: it announces the local keys over the announce protocol, or over
standard Kademlia.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import structlog
import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import closing, mesh_swarm
from spegel_py.routing.libp2p.announce import PROTOCOL as ANNOUNCE
from spegel_py.routing.libp2p.announce import AnnounceStream, Carried, say_goodbye
from spegel_py.routing.libp2p.bounds import MAX_PEERS_PER_ADDRESS, bound_key, is_full
from spegel_py.routing.libp2p.dialling import Dialler, PeerAddresses
from spegel_py.routing.libp2p.discovery import MemberDiscovery, tolerating
from spegel_py.routing.libp2p.duplicate_identities import DuplicateIdentities
from spegel_py.routing.libp2p.kademlia import KademliaClient, Reprovider
from spegel_py.routing.libp2p.location import Locations
from spegel_py.routing.libp2p.multiaddrs import Contact
from spegel_py.routing.libp2p.prober import PeerProber
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import AnnounceContext
from spegel_py.routing.libp2p.thread import TaskStatus

log = structlog.get_logger(__name__)

LEAST_PASS = 0.25
"""Least seconds between two searches for silent peers; the longest is the shortest announce
interval in force."""
RETRY_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before announcing to a peer again after a failure; each new connection starts over."""
REMEMBERED_DEPARTED = 256
"""Departed peers whose provider records are kept for their return."""


class Mesh:
    """All peers of this node.

    Args:
        provider_addresses: returns the addresses for provider records of this node's keys.
        dropped: counts input of peers that was refused, by reason.
        counted: counts what the pings of peers show, by event.
        changed: is called when a peer said hello, left, or is newly suspected.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        table: RecordTable,
        kademlia: KademliaClient,
        context: AnnounceContext,
        provider_addresses: Callable[[], list[Multiaddr]],
        carried: Carried,
        dropped: Callable[[str], None],
        rng: random.Random,
        counted: Callable[[str], None] = lambda event: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._table = table
        self._kademlia = kademlia
        self._context = context
        self._provider_addresses = provider_addresses
        self._carried = carried
        self._dropped = dropped
        self._nursery: trio.Nursery | None = None
        self._tasks: dict[ID, trio.CancelScope] = {}
        self._streams: dict[ID, AnnounceStream] = {}
        self._connected_at: dict[ID, str] = {}  # the address each peer came from, for the bounds
        self._refused: set[ID] = set()  # until their connections are closed
        self._ping = PingService(host)
        self._leaving = False
        self.duplicates = DuplicateIdentities(host, clock=time.monotonic)
        self._addresses = PeerAddresses(host)
        self.dialler = Dialler(
            host=host,
            connected=self._tasks,
            addresses=self._addresses,
            on_duplicate=self.duplicates.record_address,
        )
        self.discovery = MemberDiscovery(
            host=host,
            addresses=self._addresses,
            dialler=self.dialler,
            kademlia=kademlia,
            connected=self._connected_at,
            rng=rng,
        )
        self.prober = PeerProber(
            host=host,
            address_of=self._connected_at.get,
            lost=partial(self.lost, why="silent"),
            counted=counted,
            changed=changed,
            random=rng,
        )
        self._locations = Locations(
            connected_from=self._connected_from,
            contact=self._addresses.contact,
            prove=self.discovery.prove,
            found=self._located,
        )

    def __repr__(self) -> str:
        return f"<Mesh {len(self._tasks)} peers, {self._context!r}>"

    # Lifetime

    async def run(self, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Tend peers until cancelled."""
        self._host.get_network().register_notifee(_Notifee(self))
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.discovery.run)
            nursery.start_soon(self._drop_silent)
            nursery.start_soon(self.prober.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None  # connections end while it is being closed

    async def say_goodbye(self, *, timeout: float) -> None:
        """Send every peer a goodbye, within `timeout` seconds.

        Nothing more is announced: a hello after the goodbye would take it back.
        """
        self._leaving = True
        self.discovery.stop()
        for scope in self._tasks.values():
            scope.cancel()
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for peer in list(self._tasks):
                    nursery.start_soon(self._goodbye, peer)

    async def _goodbye(self, peer: ID) -> None:
        with tolerating("goodbye failed", peer):
            await say_goodbye(self._host, peer, self._carried)

    # The connected peers

    def peers(self) -> list[ID]:
        """Return the connected peers."""
        return list(self._tasks)

    def contact(self, peer: ID) -> Contact:
        """Return a peer with the addresses it announces itself."""
        return self._addresses.contact(peer)

    def address_of(self, peer: ID) -> str | None:
        """Return the IP address at which a peer can be asked (see `location`).

        None if the peer is not connected, or was refused.
        """
        return None if peer in self._refused else self._locations.of(peer)

    def claims(self, peer: ID, host: str) -> None:
        """Start a check whether a connected peer answers at an IP address it claims."""
        if self._nursery is not None and peer in self._tasks:
            self._nursery.start_soon(self._locate, peer, partial(self._locations.claim, peer, host))

    def _connected_from(self, peer: ID) -> str | None:
        for connection in self._host.get_network().get_connections(peer):
            if ip := mesh_swarm.remote_ip(connection):
                return ip
        return None

    def set_pings_too(self, peer: ID, on: bool) -> None:
        """Record whether a peer watches others by pings too; then it gets another hello."""
        self.prober.set_pings_too(peer, on)
        if (stream := self._streams.get(peer)) is not None:
            stream.wake()

    # Coming and going

    def arrived(self, peer: ID) -> None:
        """Take up a peer that connected, or refuse it if its address has too many peers."""
        if self._nursery is None or peer in self._tasks or self._leaving:
            return
        address = self._connected_from(peer) or ""
        held = list(self._connected_at.values()).count(address)
        if is_full(held, address, limit=MAX_PEERS_PER_ADDRESS):
            self._dropped("too-many-peers")
            self._refused.add(peer)
            self._table.peer_disconnected(str(peer))  # it may have announced already
            self._start_hang_up(peer)
            return
        self._tasks[peer], self._connected_at[peer] = trio.CancelScope(), address
        self.discovery.mark_connected(peer)
        self.prober.add(peer)
        self._table.peer_connected(str(peer), bound_key=bound_key(address, str(peer)))
        log.info(
            "peer connected", peer=str(peer), address=self.address_of(peer), peers=len(self._tasks)
        )
        self._context.set_members(self._connected_at)
        self._nursery.start_soon(self._tend, peer, self._tasks[peer])

    def connected_again(self, peer: ID) -> None:
        """Watch a peer that is connected from several processes."""
        if self._nursery is not None and self.duplicates.needs_watch(peer):
            self._nursery.start_soon(self.duplicates.watch, peer)

    def lost(self, peer: ID, *, why: str) -> None:
        """Drop a peer that sent no goodbye, and redial it for a while."""
        self._refused.discard(peer)
        if self._nursery is None or peer not in self._tasks:
            return
        self.contact(peer)  # remember its addresses
        self._drop(peer, why=why)
        if not self._leaving:
            self.discovery.mark_lost(peer)
            connections = self._host.get_network().get_connections(peer)
            self._nursery.start_soon(self._redial, peer, connections)

    def left(self, peer: ID) -> None:
        """Drop a peer that said goodbye."""
        self.discovery.forget(peer)
        self._table.peer_left(str(peer))
        self._drop(peer, why="goodbye")
        self._start_hang_up(peer)

    def _drop(self, peer: ID, *, why: str) -> None:
        """Hide everything the peer announced, and stop tending it."""
        self._table.peer_disconnected(str(peer))
        self._table.forget_departed(REMEMBERED_DEPARTED)
        self._kademlia.forget(peer)
        self._locations.forget(peer)
        self._connected_at.pop(peer, None)
        self.prober.remove(peer)
        if scope := self._tasks.pop(peer, None):
            log.info("peer gone", peer=str(peer), why=why, peers=len(self._tasks))
            self._context.set_members(self._connected_at)
            scope.cancel()

    def _start_hang_up(self, peer: ID) -> None:
        if self._nursery is not None:
            connections = self._host.get_network().get_connections(peer)
            self._nursery.start_soon(self._hang_up, peer, connections)

    async def _hang_up(self, peer: ID, connections: Sequence[INetConn]) -> None:
        with tolerating("hanging up failed", peer):
            await closing.hang_up(connections)

    async def _redial(self, peer: ID, connections: Sequence[INetConn]) -> None:
        await self._hang_up(peer, connections)
        await self.discovery.redial(peer)

    async def _drop_silent(self) -> None:
        """Drop peers whose announcements have run out, though they may answer pings.

        Nodes of older versions announce often, so a frozen one is found by this too. A pass comes
        when the next announcement may have run out, and at least once in the shortest announce
        interval in force.
        """
        while True:
            await trio.sleep(self._until_next_pass(time.monotonic()))
            now = time.monotonic()
            for name in self._table.silent(now):
                self.lost(ID.from_base58(name), why="silent")
            self._table.expire(now)

    def _until_next_pass(self, now: float) -> float:
        longest = min(self._context.base_interval, self._table.shortest_interval())
        return max(LEAST_PASS, min(longest, self._table.next_end() - now))

    # Tending one peer

    async def _tend(self, peer: ID, scope: trio.CancelScope) -> None:
        with scope, tolerating("tending a peer failed", peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.discovery.explore, peer)
                nursery.start_soon(self._locate, peer, partial(self._locations.find, peer))
                await self._keep_announcing(peer)

    async def _locate(self, peer: ID, search: Callable[[], Awaitable[None]]) -> None:
        with tolerating("locating a peer failed", peer):
            await search()

    def _located(self, peer: ID, host: str) -> None:
        self._table.locate(str(peer), host)

    async def _keep_announcing(self, peer: ID) -> None:
        """Announce the local keys to a peer, again after every failure, ever less often."""
        for delay in itertools.chain(RETRY_DELAYS, itertools.repeat(RETRY_DELAYS[-1])):
            if self._leaving:  # a hello after the goodbye would take it back
                return
            with tolerating("telling a peer failed", peer):
                if self._speaks_announce(peer) is False:
                    reprovider = Reprovider(
                        peer=peer,
                        kademlia=self._kademlia,
                        ping=self._ping,
                        context=self._context,
                        provider_addresses=self._provider_addresses,
                        lost=lambda why: self.lost(peer, why=why),
                    )
                    await reprovider.run()
                else:
                    stream = AnnounceStream(
                        host=self._host,
                        peer=peer,
                        context=self._context,
                        carried=self._carried,
                        pings_too=partial(self.prober.pings_too, peer),
                    )
                    self._streams[peer] = stream
                    try:
                        await stream.run()
                    finally:
                        if self._streams.get(peer) is stream:  # none of a later connection
                            del self._streams[peer]
            await trio.sleep(delay)

    def _speaks_announce(self, peer: ID) -> bool | None:
        """Return whether the peer's identify message listed the announce protocol.

        None while that message has not come.
        """
        try:
            protocols = self._host.get_peerstore().get_protocols(peer)
        except Exception:  # noqa: BLE001 - py-libp2p raises if it knows nothing about a peer yet
            return None
        return (ANNOUNCE in protocols) if protocols else None


class _Notifee(INotifee):
    """Passes connections' coming and going from the swarm to the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._mesh.arrived(conn.muxed_conn.peer_id)
        self._mesh.connected_again(conn.muxed_conn.peer_id)

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
