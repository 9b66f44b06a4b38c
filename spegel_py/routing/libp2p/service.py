"""The Trio side put together: host, record table, Kademlia, announcements and members, for one life of the thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import Answerer, Peer
from spegel_py.routing.libp2p import announce, compat, kademlia, questions
from spegel_py.routing.libp2p.addresses import announced_addresses, listen_addresses
from spegel_py.routing.libp2p.bootstrap import Target
from spegel_py.routing.libp2p.hop import hop
from spegel_py.routing.libp2p.kademlia import Contact, KademliaClient, KademliaServer
from spegel_py.routing.libp2p.keys import closest, position, record_key
from spegel_py.routing.libp2p.mesh import Mesh
from spegel_py.routing.libp2p.questions import Answers, Questions
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import LocalKeys
from spegel_py.routing.libp2p.thread import TaskStatus

STANDARD_TTL = 19 * 60.0
"""Seconds a standard provider record lives here: Spegel's own validity (15 min + 2 × 2 min)."""
MAX_ASKED = 6
"""Peers asked in one lookup at most, when the closest are slow or fail."""
GOODBYE_TIMEOUT = 2.0
"""Seconds for telling all peers goodbye at the end: milliseconds when idle, but a busy node must not seem lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the libp2p side is built from; hosts are IP literals, or empty for all interfaces."""

    key: Ed25519PrivateKey
    host: str
    port: int
    registry_host: str
    registry_port: int
    interval: float
    mesh_limit: int
    replication: int
    agent: str
    shares: bool = False
    """Whether this node takes part in sharing what is being pulled."""


class Service:
    """One life of the libp2p side. Everything but the constructor runs on Trio."""

    def __init__(
        self,
        *,
        settings: Settings,
        table: RecordTable,
        local: LocalKeys,
        dropped: Callable[[str], None],
        carried: announce.Carried,
        rng: random.Random,
        answer: Answerer,
    ) -> None:
        self._settings = settings
        self._table = table
        self._local = local
        announced = announced_addresses(settings.host, settings.port)
        self._host = compat.build_host(settings.key, announce=announced, failed=lambda _: dropped("failed-stream"))
        self._kademlia = KademliaClient(self._host)
        self._mesh = Mesh(
            host=self._host,
            table=table,
            local=local,
            kademlia=self._kademlia,
            interval=settings.interval,
            registry_host=settings.registry_host,
            registry_port=settings.registry_port,
            agent=settings.agent,
            shares=settings.shares,
            limit=settings.mesh_limit,
            replication=settings.replication,
            provider_addresses=self._provider_addresses,
            carried=carried,
            rng=rng,
        )
        server = KademliaServer(self._host, kademlia.Answers(self._providers, self._closest, self._provide, dropped))
        receiver = announce.Receiver(
            table=table,
            clock=time.monotonic,
            address_of=self._mesh.address_of,
            dropped=dropped,
            left=self._mesh.left,
            carried=carried,
        )
        self._host.set_stream_handler(kademlia.PROTOCOL, server.handle)
        self._host.set_stream_handler(announce.PROTOCOL, receiver.handle)
        self._questions = Questions(self._host)
        if settings.shares:
            self._host.set_stream_handler(questions.PROTOCOL, Answers(answer, dropped).handle)

    async def run(self, stop: trio.Event, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and tend peers until `stop` is set, then say goodbye."""
        listen = listen_addresses(self._settings.host, self._settings.port)
        async with (
            self._host.run(listen),
            self._kademlia.running(),
            self._questions.running(),
            trio.open_nursery() as nursery,
        ):
            if len(self._host.get_network().listeners) < len(listen):
                raise RouterUnavailable(f"cannot listen on {', '.join(map(str, listen))}")
            await nursery.start(self._mesh.run)
            task_status.started()
            try:
                await stop.wait()
                await self._mesh.say_goodbye(timeout=GOODBYE_TIMEOUT)
            finally:
                try:
                    await compat.hang_up_all(self._host)
                finally:  # one that is left open looks alive to its peer, which may say goodbye into it
                    compat.shut_connections(self._host)
            nursery.cancel_scope.cancel()

    # What the asyncio side calls

    async def advertise(self, keys: Collection[bytes], pulled: Mapping[bytes, float]) -> None:
        """Add keys; `pulled` is on the monotonic clock."""
        is_new, is_aged = self._local.add(keys), self._local.age(pulled)
        if is_new or is_aged:
            self._mesh.tell_news()

    async def withdraw(self, keys: Collection[bytes]) -> None:
        if self._local.remove(keys):
            self._mesh.tell_news()

    async def bootstrap(self, targets: Sequence[Target]) -> int:
        """Connect to the targets that are not connected yet; returns how many of them are not this node itself."""
        async with trio.open_nursery() as nursery:
            for target in targets:
                expected = ID.from_base58(target.peer) if target.peer else None
                nursery.start_soon(self._mesh.reach, [Multiaddr(target.address)], expected)
        own = str(self._host.get_id())
        return sum(target.peer != own and not self._mesh.is_own(target.address) for target in targets)

    async def seek(self) -> None:
        """Dial a few of the peers that were lost."""
        await self._mesh.seek()

    def shut(self) -> None:
        """Shut the sockets from another thread, of a life that does not answer and is left behind."""
        compat.shut_sockets(self._host)

    async def hop(self, key: bytes, found: Callable[[Peer], None], limit: int, known: set[str]) -> None:
        """Ask the peers closest to a key for its providers; call `found` with each that is not known, up to `limit`."""
        seen = {str(self._host.get_id()), *known}

        def take(contact: Contact) -> bool:
            peer = self._usable(contact)
            if peer is not None and peer.id not in seen and len(seen) <= limit:
                seen.add(peer.id)
                found(peer)
            return len(seen) > limit

        async def ask(peer: ID) -> list[Contact]:
            return await self._kademlia.get_providers(peer, key)

        await hop(self._nearest(record_key(key), MAX_ASKED), ask, take)

    async def ask(self, peer: str, question: bytes) -> bytes:
        """Return a peer's answer to a question of those that share what they are pulling."""
        return await self._questions.ask(ID.from_base58(peer), question)

    def addresses(self) -> list[str]:
        """Return the addresses this node announces, with its id."""
        return [str(address) for address in self._host.get_addrs()]

    # What others ask

    def _usable(self, contact: Contact) -> Peer | None:
        name = str(contact.id)
        if self._table.departed(name):
            return None
        return self._table.address(name) or kademlia.provider_peer(contact, default_port=self._settings.registry_port)

    def _providers(self, key: bytes) -> list[Contact]:
        found = [self._with_registry(peer) for peer in self._table.providers(key, time.monotonic())[: kademlia.CLOSEST]]
        if key in self._local.keys:
            found.insert(0, Contact(self._host.get_id(), tuple(self._provider_addresses())))
        return found

    def _with_registry(self, peer: Peer) -> Contact:
        contact = self._mesh.contact(ID.from_base58(peer.id))
        return Contact(contact.id, (*contact.addresses, kademlia.registry_address(peer)))

    def _provider_addresses(self) -> list[Multiaddr]:
        own = kademlia.own_addresses(self._host)
        port = self._settings.registry_port
        hosts = [self._settings.registry_host] if self._settings.registry_host else [str(a).split("/")[2] for a in own]
        return [*own, *(kademlia.registry_address(Peer("", host, port)) for host in hosts)]

    def _closest(self, raw: bytes) -> list[Contact]:
        near = [self._mesh.contact(peer) for peer in self._nearest(raw, kademlia.CLOSEST)]
        return [contact for contact in near if contact.addresses]

    def _nearest(self, raw: bytes, count: int) -> list[ID]:
        places = [(position(peer.to_bytes()), peer.to_bytes()) for peer in self._mesh.peers()]
        return [ID(peer) for peer in closest(position(raw), places, count)]

    def _provide(self, sender: ID, key: bytes, addresses: Sequence[Multiaddr]) -> bool:
        peer = kademlia.provider_peer(
            Contact(sender, tuple(addresses)), default_port=self._settings.registry_port
        ) or self._as_connected(sender)
        if peer is None:
            return False
        return self._table.provide(str(sender), key, peer, expires=time.monotonic() + STANDARD_TTL)

    def _as_connected(self, peer: ID) -> Peer | None:
        ip = self._mesh.address_of(peer)
        return Peer(str(peer), ip, self._settings.registry_port) if ip else None
