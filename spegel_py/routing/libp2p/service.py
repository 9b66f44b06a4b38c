"""The Trio side put together: host, record table, Kademlia, announcements and members, for one life of the thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import Peer, RequestHandler
from spegel_py.routing.libp2p import announce, compat, kademlia, request_response
from spegel_py.routing.libp2p.addresses import OwnAddresses, listen_addresses
from spegel_py.routing.libp2p.bootstrap import Target
from spegel_py.routing.libp2p.hop import hop
from spegel_py.routing.libp2p.kademlia import Contact, KademliaClient, KademliaServer
from spegel_py.routing.libp2p.keys import closest, position, record_key
from spegel_py.routing.libp2p.mesh import Mesh
from spegel_py.routing.libp2p.password import PasswordProof
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.request_response import RequestResponseClient, RequestResponseHandler
from spegel_py.routing.libp2p.sharing import LocalKeys
from spegel_py.routing.libp2p.thread import TaskStatus

STANDARD_TTL = 19 * 60.0
"""Seconds a standard provider record lives here: Spegel's own validity (15 min + 2 × 2 min)."""
MAX_ASKED = 6
"""Peers asked in one lookup at most, when the closest are slow or fail."""
MAX_MET = 4
"""Providers that are not connected, and are dialled in one lookup: members are connected, so these have just joined."""
GOODBYE_TIMEOUT = 2.0
"""Seconds for telling all peers goodbye at the end: milliseconds when idle, but a busy node must not seem lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
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
    password: bytes = field(default=b"", repr=False)
    """`user:password` that all registries of the cluster ask for; empty where they do not."""


class Service:
    """One life of the libp2p side. Everything but the constructor runs on Trio."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        table: RecordTable,
        local: LocalKeys,
        dropped: Callable[[str], None],
        carried: announce.Carried,
        rng: random.Random,
        handler: RequestHandler,
    ) -> None:
        self._settings = settings
        self._table = table
        self._local = local
        self._host = compat.build_host(
            settings.key,
            announce=OwnAddresses(settings.host, settings.port),
            failed=lambda _: dropped("failed-stream"),
            refused=lambda: dropped("too-many-connections"),
        )
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
            password=PasswordProof(settings.password),
            carried=carried,
            dropped=dropped,
            rng=rng,
        )
        server = KademliaServer(
            self._host,
            kademlia.KademliaBackend(self._providers, self._closest, self._provide, dropped),
        )
        receiver = announce.AnnounceReceiver(
            table=table,
            clock=time.monotonic,
            address_of=self._mesh.address_of,
            claims=self._mesh.claims,
            knows_password=self._mesh.knows_password,
            dropped=dropped,
            left=self._mesh.left,
            carried=carried,
        )
        self._host.set_stream_handler(kademlia.PROTOCOL, server.handle)
        self._host.set_stream_handler(announce.PROTOCOL, receiver.handle)
        self._requests = RequestResponseClient(self._host)
        if settings.shares:
            self._host.set_stream_handler(
                request_response.PROTOCOL, RequestResponseHandler(handler, dropped).handle
            )

    async def run(
        self, stop: trio.Event, task_status: TaskStatus = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and tend peers until `stop` is set, then say goodbye."""
        listen = listen_addresses(self._settings.host, self._settings.port)
        async with (
            self._host.run(listen),
            self._kademlia.running(),
            self._requests.running(),
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
        return sum(
            target.peer != own and not self._mesh.is_own(target.address) for target in targets
        )

    async def seek(self) -> None:
        """Dial a few of the peers that were lost."""
        await self._mesh.seek()

    def shut(self) -> None:
        """Shut the sockets from another thread, of a life that does not answer and is left behind."""
        compat.shut_sockets(self._host)

    async def hop(
        self, key: bytes, found: Callable[[Peer], None], limit: int, known: set[str]
    ) -> None:
        """Ask the peers closest to a key for its providers; call `found` with each that is not known, up to `limit`."""
        own = str(self._host.get_id())
        seen, taken = {own, *known}, {own, *known}

        def take(peer: Peer | None) -> bool:
            if peer is not None and peer.id not in taken and len(taken) <= limit:
                taken.add(peer.id)
                found(peer)
            return len(taken) > limit

        async def meet(contact: Contact) -> None:
            """Offer a provider that is not connected once it is: until then its address is another one's word."""
            dialled = [
                address for address in contact.addresses if not kademlia.is_registry(address)
            ]
            await self._mesh.meet([Contact(contact.id, tuple(dialled))], within=self._mesh.hearsay)
            take(self._usable(contact))

        async def ask(peer: ID) -> list[Contact]:
            named = await self._kademlia.get_providers(peer, key)
            return [self._mesh.dialable(contact, named_by=peer) for contact in named]

        async with trio.open_nursery() as nursery:

            def consider(contact: Contact) -> bool:
                if (name := str(contact.id)) not in seen:
                    seen.add(name)
                    if not self._table.is_connected(name) and len(seen) <= MAX_MET + len(known):
                        nursery.start_soon(meet, contact)
                return take(self._usable(contact))

            await hop(self._nearest(record_key(key), MAX_ASKED), ask, consider)
            if len(taken) > limit:
                nursery.cancel_scope.cancel()

    async def request(self, peer: str, message: bytes) -> bytes:
        """Return a peer's response to a request."""
        return await self._requests.request(ID.from_base58(peer), message)

    def twins(self) -> Mapping[str, str]:
        """Return the nodes that share an identity, each with a sentence: see `twins`."""
        return self._mesh.twins.current()

    def addresses(self) -> list[str]:
        """Return the addresses this node announces, with its id."""
        return [str(address) for address in self._host.get_addrs()]

    # What others ask

    def _usable(self, contact: Contact) -> Peer | None:
        """Return where a provider that a peer named can be asked; None if it is not connected."""
        name = str(contact.id)
        if not self._table.is_connected(name):
            return None
        return self._table.address(name) or self._at(contact.id, contact.addresses)

    def _providers(self, key: bytes) -> list[Contact]:
        found = [
            self._with_registry(peer)
            for peer in self._table.providers(key, time.monotonic())[: kademlia.CLOSEST]
        ]
        if key in self._local.keys:
            found.insert(0, Contact(self._host.get_id(), tuple(self._provider_addresses())))
        return found

    def _with_registry(self, peer: Peer) -> Contact:
        contact = self._mesh.contact(ID.from_base58(peer.id))
        return Contact(contact.id, (*contact.addresses, kademlia.registry_address(peer)))

    def _provider_addresses(self) -> list[Multiaddr]:
        own = kademlia.own_addresses(self._host)
        port = self._settings.registry_port
        hosts = (
            [self._settings.registry_host]
            if self._settings.registry_host
            else [str(a).split("/")[2] for a in own]
        )
        return [*own, *(kademlia.registry_address(Peer("", host, port)) for host in hosts)]

    def _closest(self, raw: bytes) -> list[Contact]:
        near = [self._mesh.contact(peer) for peer in self._nearest(raw, kademlia.CLOSEST)]
        return [contact for contact in near if contact.addresses]

    def _nearest(self, raw: bytes, count: int) -> list[ID]:
        places = [(position(peer.to_bytes()), peer.to_bytes()) for peer in self._mesh.peers()]
        return [ID(peer) for peer in closest(position(raw), places, count)]

    def _provide(self, sender: ID, key: bytes, addresses: Sequence[Multiaddr]) -> bool:
        peer = self._at(sender, addresses)
        if peer is None:
            return False
        return self._table.provide(str(sender), key, peer, expires=time.monotonic() + STANDARD_TTL)

    def _at(self, peer: ID, addresses: Sequence[Multiaddr]) -> Peer | None:
        """Return where a connected peer's registry is; of the addresses that are named for it, the port counts."""
        host = self._mesh.address_of(peer)
        port = kademlia.registry_port(addresses, default=self._settings.registry_port)
        return Peer(str(peer), host, port) if host else None
