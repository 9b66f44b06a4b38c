"""The members: connecting to every node there is, telling each what is held here, letting go of the silent ones.

One task tends each connected peer: it keeps the announce link up, or the standard one. Members are found by asking for
those near random places.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import structlog
import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.announce import PROTOCOL as ANNOUNCE
from spegel_py.routing.libp2p.announce import AnnounceStream, Carried, say_goodbye
from spegel_py.routing.libp2p.bounds import MAX_PEERS_PER_ADDRESS, is_full, place
from spegel_py.routing.libp2p.dialling import DIAL_TIMEOUT, MAX_DIALS, Dialler
from spegel_py.routing.libp2p.duplicate_identities import PATIENCE, REMEMBERED, DuplicateIdentities
from spegel_py.routing.libp2p.frames import Hello
from spegel_py.routing.libp2p.kademlia import Contact, KademliaClient, strip_peer
from spegel_py.routing.libp2p.location import Locations, without_nobodies
from spegel_py.routing.libp2p.password import PasswordProof
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import (
    KeyPlacement,
    LocalKeys,
    next_interval,
    tells_everything,
)
from spegel_py.routing.libp2p.standard import StandardLink
from spegel_py.routing.libp2p.thread import TaskStatus

log = structlog.get_logger(__name__)

DISCOVERY_INTERVAL = 60.0
"""Seconds between two looks for unknown members, each 15 ms of CPU; who joins is met at once, so this only mends."""
LOOK_AGAIN = 1.0
"""Seconds after which a peer that knew nobody is asked again: by then it has heard the addresses of who joined with
this node, which takes some milliseconds."""
LEAST_PASS = 0.25
"""Seconds between two looks for peers that fell silent at least; at most it is the shortest interval in force."""
REDIAL_DELAYS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds between attempts to reach a lost peer again; then it is left to discovery and bootstrap."""
SOUGHT = 4
"""Lost peers dialled in one look for them: each of them leads to all others, and a dial into nowhere takes 3 s."""
LINK_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before telling a peer again after a failure; each new connection starts over."""
MAX_KNOWN = 10_000
"""Addresses of peers remembered, connected or not."""
UNKNOWN = "0.0.0.0"  # noqa: S104 - nobody's
"""Stands for the address of a peer that is not connected any more."""
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
        shares: bool,
        limit: int,
        replication: int,
        provider_addresses: Callable[[], list[Multiaddr]],
        password: PasswordProof,
        carried: Carried,
        dropped: Callable[[str], None],
        rng: random.Random,
    ) -> None:
        self._host = host
        self._table = table
        self._local = local
        self._kademlia = kademlia
        self._base_interval = interval
        self._limit = limit
        self._plan = KeyPlacement(replication=replication)
        self._provider_addresses = provider_addresses
        self._password = password
        self._carried = carried
        self._dropped = dropped
        self._rng = rng
        self._hello = Hello(interval, registry_host, registry_port, agent, shares=shares)
        self._everything = limit > 0
        self._news = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._tasks: dict[ID, trio.CancelScope] = {}
        self._known: dict[ID, tuple[Multiaddr, ...]] = {}
        self._lost: set[ID] = set()
        self._connected_at: dict[ID, str] = {}  # from which address each peer came, for the bounds
        self._refused: set[ID] = set()  # until their connections are closed
        self._compared: set[ID] = set()
        self._locations = Locations(
            connected_from=self._connected_from,
            contact=self.contact,
            prove=self._prove,
            found=self._located,
        )
        # Peers that another peer names may not exist. The other half of the dials is for bootstrap and lost peers.
        self.hearsay = trio.CapacityLimiter(MAX_DIALS // 2)
        self._dialler = Dialler(
            host=host, connected=self._tasks, contact=self.contact, twin=self._met_twin
        )
        self.twins = DuplicateIdentities(time.monotonic)
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

    def proof_for(self, peer: ID) -> str:
        return self._password.make(by=self._host.get_id(), to=peer)

    def knows_password(self, peer: ID, proof: str) -> bool:
        """Return True if a peer's proof shows that it knows the password of this node."""
        return self._password.is_right(proof, by=peer, to=self._host.get_id())

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
            await say_goodbye(self._host, peer, self._carried)

    # Who is connected

    def peers(self) -> list[ID]:
        """Return the connected peers."""
        return list(self._tasks)

    def address_of(self, peer: ID) -> str | None:
        """Return the IP address at which a connected peer can be asked (see `location`), None for a refused one."""
        return None if peer in self._refused else self._locations.of(peer)

    def claims(self, peer: ID, host: str) -> None:
        """Look whether a connected peer answers at an IP address that it gives as its registry's."""
        if self._nursery is not None and peer in self._tasks:
            self._nursery.start_soon(self._locate, peer, partial(self._locations.claim, peer, host))

    def _connected_from(self, peer: ID) -> str | None:
        for connection in self._host.get_network().get_connections(peer):
            if ip := compat.remote_ip(connection):
                return ip
        return None

    def contact(self, peer: ID) -> Contact:
        """Return a connected peer with the addresses it announces itself."""
        try:
            addresses = tuple(
                strip_peer(address) for address in self._host.get_peerstore().addrs(peer)
            )
        except Exception:  # noqa: BLE001 - py-libp2p raises where a peer has no addresses yet
            addresses = ()
        if addresses:
            self._known[peer] = addresses
        return Contact(peer, self._known.get(peer, ()))

    def arrived(self, peer: ID) -> None:
        """Take up a peer that connected."""
        if self._nursery is None or peer in self._tasks or self._leaving:
            return
        address = self._connected_from(peer) or ""
        if is_full(
            list(self._connected_at.values()).count(address), address, limit=MAX_PEERS_PER_ADDRESS
        ):
            self._dropped("too-many-peers")
            self._refused.add(peer)
            self._table.peer_disconnected(str(peer))  # it may have spoken already
            self._nursery.start_soon(
                self._hang_up, peer, self._host.get_network().get_connections(peer)
            )
            return
        self._tasks[peer], self._connected_at[peer] = trio.CancelScope(), address
        self._lost.discard(peer)
        self._table.peer_connected(str(peer), place=place(address, str(peer)))
        log.info(
            "peer connected", peer=str(peer), address=self.address_of(peer), peers=len(self._tasks)
        )
        self._members_changed()
        self._nursery.start_soon(self._tend, peer, self._tasks[peer])

    def arrived_again(self, peer: ID) -> None:
        """Look whether a peer that has several connections is several processes."""
        if self._nursery is None or peer in self._compared or len(self._processes(peer)) < 2:
            return
        self._compared.add(peer)
        self._nursery.start_soon(self._compare, peer)

    async def _compare(self, peer: ID) -> None:
        """Remember a peer that stays connected as several processes, for as long as it does."""
        try:
            await trio.sleep(PATIENCE)
            while len(processes := self._processes(peer)) > 1:
                self.twins.met(
                    str(peer),
                    f"it is connected from {' and from '.join(sorted(processes.values()))}",
                )
                await trio.sleep(REMEMBERED / 3)
        finally:
            self._compared.discard(peer)

    def _processes(self, peer: ID) -> dict[bytes, str]:
        """Return the processes as which a peer is connected, each with the address that it is connected from."""
        connections = self._host.get_network().get_connections(peer)
        return {compat.process_key(each): compat.remote_ip(each) or "" for each in connections}

    def _met_twin(self, address: str) -> None:
        self.twins.met(address, f"{address} answers with the identity of this node")

    def lost(self, peer: ID, *, why: str) -> None:
        """Let go of a peer that did not say goodbye, and try to reach it again for a while."""
        self._refused.discard(peer)
        if self._nursery is None or peer not in self._tasks:
            return
        self.contact(peer)  # remember its addresses
        self._drop(peer, why=why)
        if not self._leaving:
            self._lost.add(peer)
            self._nursery.start_soon(
                self._reach_again, peer, self._host.get_network().get_connections(peer)
            )

    def left(self, peer: ID) -> None:
        """Let go of a peer that said goodbye."""
        self._known.pop(peer, None)
        self._lost.discard(peer)
        self._table.peer_left(str(peer))
        self._drop(peer, why="goodbye")
        if self._nursery is not None:
            self._nursery.start_soon(
                self._hang_up, peer, self._host.get_network().get_connections(peer)
            )

    def _drop(self, peer: ID, *, why: str) -> None:
        """Offer nothing that the peer announced any more, and stop tending it."""
        self._table.peer_disconnected(str(peer))
        self._table.forget_departed(REMEMBERED_DEPARTED)
        self._kademlia.forget(peer)
        self._locations.forget(peer)
        self._connected_at.pop(peer, None)
        if scope := self._tasks.pop(peer, None):
            log.info("peer gone", peer=str(peer), why=why, peers=len(self._tasks))
            self._members_changed()
            scope.cancel()

    def _members_changed(self) -> None:
        self._plan.members([peer.to_bytes() for peer in self._tasks])
        # Peers at one address count once: one machine cannot make a cluster look so large that its nodes do not tell
        # each other everything.
        nodes = len({place(address, str(peer)) for peer, address in self._connected_at.items()}) + 1
        everything = tells_everything(self._everything, nodes=nodes, limit=self._limit)
        if everything != self._everything:
            log.info(
                "announcing to all" if everything else "announcing to the closest", nodes=nodes
            )
        self._everything = everything
        interval = next_interval(
            self._hello.interval, base=self._base_interval, peers=len(self._tasks)
        )
        self._hello = replace(self._hello, interval=interval)
        self.tell_news()

    # Tending one peer

    async def _tend(self, peer: ID, scope: trio.CancelScope) -> None:
        with scope, tolerating("tending a peer failed", peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._explore, peer)
                nursery.start_soon(self._locate, peer, partial(self._locations.find, peer))
                await self._keep_told(peer)

    async def _locate(self, peer: ID, look: Callable[[], Awaitable[None]]) -> None:
        with tolerating("locating a peer failed", peer):
            await look()

    async def _prove(self, address: Multiaddr, peer: ID) -> None:
        async with self.hearsay:
            await compat.prove(self._host, address, expected=peer, timeout=DIAL_TIMEOUT)

    def _located(self, peer: ID, host: str) -> None:
        self._table.locate(str(peer), host)

    async def _keep_told(self, peer: ID) -> None:
        """Tell a peer what is held here by the best way it speaks, again after every failure, ever less often."""
        for delay in itertools.chain(LINK_DELAYS, itertools.repeat(LINK_DELAYS[-1])):
            if self._leaving:  # a hello after the goodbye would take it back
                return
            with tolerating("telling a peer failed", peer):
                if self._speaks_announce(peer) is False:
                    standard = StandardLink(
                        peer=peer,
                        kademlia=self._kademlia,
                        ping=self._ping,
                        part=lambda: self._plan.part_for(peer.to_bytes(), self._local),
                        situation=self,
                        provider_addresses=self._provider_addresses,
                        lost=lambda why: self.lost(peer, why=why),
                    )
                    await standard.run()
                else:
                    link = AnnounceStream(
                        host=self._host,
                        peer=peer,
                        local=self._local,
                        situation=self,
                        carried=self._carried,
                    )
                    await link.run()
            await trio.sleep(delay)

    def _speaks_announce(self, peer: ID) -> bool | None:
        """Say what the peer's identify message listed; None while it has not come."""
        try:
            protocols = self._host.get_peerstore().get_protocols(peer)
        except Exception:  # noqa: BLE001 - py-libp2p raises where it knows nothing of a peer yet
            return None
        return (ANNOUNCE in protocols) if protocols else None

    async def _hang_up(self, peer: ID, connections: Sequence[INetConn]) -> None:
        with tolerating("hanging up failed", peer):
            await compat.hang_up(connections)

    # Finding members

    async def meet(
        self, contacts: Iterable[Contact], *, within: trio.CapacityLimiter | None = None
    ) -> None:
        """Connect to those of the contacts that are not connected yet; returns when all were tried.

        `within` limits how many of them are tried at a time.
        """

        async def reach(contact: Contact) -> None:
            async with within or nullcontext():
                await self.reach(contact.addresses, contact.id)

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                if contact.id != self._host.get_id() and contact.id not in self._tasks:
                    nursery.start_soon(reach, contact)

    async def reach(self, addresses: Iterable[Multiaddr], expected: ID | None) -> bool:
        """Try the addresses in turn; `expected` is the peer's id where it is known. Says whether one was connected."""
        return not self._leaving and await self._dialler.reach(addresses, expected)

    def dialable(self, contact: Contact, *, named_by: ID) -> Contact:
        """Return a contact that a peer named, without the addresses that must not be dialled on another one's word."""
        return without_nobodies(contact, self._connected_at.get(named_by, UNKNOWN))

    def is_own(self, address: str) -> bool:
        """Say whether an address was dialled and is this node's own."""
        return self._dialler.is_own(address)

    async def seek(self) -> None:
        """Dial SOUGHT of the lost peers, chosen at random; returns when all were tried."""
        lost = [peer for peer in self._lost if peer in self._known]
        chosen = self._rng.sample(lost, min(SOUGHT, len(lost)))
        await self.meet(Contact(peer, self._known[peer]) for peer in chosen)

    async def _explore(self, peer: ID) -> None:
        """Connect to those that a peer knows; once more in a moment if it knows nobody: of who joins in the same moment
        it has no addresses yet, and who is the first of them hears of no other."""
        with tolerating("exploring failed", peer):
            if not await self._meet_through(peer):
                await trio.sleep(LOOK_AGAIN)
                await self._meet_through(peer)

    async def _meet_through(self, peer: ID) -> bool:
        """Ask a peer for those near this node and near a random place, and connect to them; say whether it knew any."""
        own, knows_any = self._host.get_id(), False
        for target in (own.to_bytes(), os.urandom(34)):
            named = await self._kademlia.find_node(peer, target)
            found = [
                self.dialable(contact, named_by=peer) for contact in named if contact.id != own
            ]
            for contact in found[: max(0, MAX_KNOWN - len(self._known))]:
                self._known.setdefault(contact.id, contact.addresses)
            await self.meet(found, within=self.hearsay)
            knows_any = knows_any or bool(found)
        return knows_any

    async def _discover(self) -> None:
        while True:
            await trio.sleep(DISCOVERY_INTERVAL * self._rng.uniform(0.8, 1.2))
            if self._tasks:
                await self._explore(self._rng.choice(list(self._tasks)))

    async def _watch(self) -> None:
        """Let go of peers that stopped refreshing though their connection stands (a stopped or starved process).

        A pass comes when the next announcement may have run out, and at least once in the shortest interval in force.
        """
        while True:
            await trio.sleep(self._until_next_pass(time.monotonic()))
            now = time.monotonic()
            for name in self._table.silent(now):
                self.lost(ID.from_base58(name), why="silent")
            self._table.expire(now)

    def _until_next_pass(self, now: float) -> float:
        longest = min(self._base_interval, self._table.shortest_interval())
        return max(LEAST_PASS, min(longest, self._table.next_end() - now))

    async def _reach_again(self, peer: ID, connections: Sequence[INetConn]) -> None:
        await self._hang_up(peer, connections)
        for delay in REDIAL_DELAYS:
            await trio.sleep(delay * self._rng.uniform(0.7, 1.3))
            if peer in self._tasks or peer not in self._known:
                return
            with tolerating("reaching a peer again failed", peer):
                await self.reach(self._known[peer], peer)
        if peer not in self._tasks:
            self._known.pop(peer, None)
            self._lost.discard(peer)


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
        self._mesh.arrived_again(conn.muxed_conn.peer_id)

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
