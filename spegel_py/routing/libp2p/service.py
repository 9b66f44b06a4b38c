"""The Trio side put together, for one life of its thread: host, records, Kademlia and members."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import cast

import trio
from libp2p.abc import INetConn
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import Peer, RequestHandler
from spegel_py.routing.cluster_keys import ClusterKey
from spegel_py.routing.libp2p import (
    announce,
    closing,
    compat,
    kademlia,
    mesh_swarm,
    multiaddrs,
    prober,
    request_response,
)
from spegel_py.routing.libp2p.bootstrap_targets import Target
from spegel_py.routing.libp2p.dht import Dht
from spegel_py.routing.libp2p.frames import Hello
from spegel_py.routing.libp2p.identity import PasswordProof
from spegel_py.routing.libp2p.kademlia import KademliaBackend, KademliaClient, KademliaServer
from spegel_py.routing.libp2p.mesh import Mesh
from spegel_py.routing.libp2p.mesh_swarm import MeshSwarm
from spegel_py.routing.libp2p.network_gate import NetworkGate, StrangerLog, key_of
from spegel_py.routing.libp2p.prober import Watched
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.request_response import (
    RequestResponseClient,
    RequestResponseHandler,
    at_once,
)
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.routing.libp2p.sharing import AnnounceContext, LocalKeys
from spegel_py.routing.libp2p.thread import TaskStatus

GOODBYE_TIMEOUT = 2.0
"""Seconds for sending all goodbyes at the end: milliseconds when idle, but a busy node must not
seem lost."""

BETWEEN_HANG_UPS = 0.1
"""Seconds between two connections that are closed because their key was removed: each peer then
announces again over its other one."""

REPLACING = 10.0
"""Seconds for connections with a present key before those with a removed one are closed. A dial
takes about 20 ms. A peer that answers no dial must not keep its connection for long."""


class Service:
    """One life of the libp2p side. Every method except the constructor and `shut` runs on Trio."""

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
        keep_handler: RequestHandler,
        keys: Sequence[ClusterKey] = (),
        counted: Callable[[str], None] = lambda event: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._listen = multiaddrs.listen_addresses(settings.host, settings.port)
        self._local = local
        self._gate = NetworkGate(keys, settings.keys_mode)
        self._strangers = StrangerLog(lambda: dropped("no-cluster-key"))
        self._host = compat.build_host(
            settings.key,
            announce=multiaddrs.OwnAddresses(settings.host, settings.port),
            failed=lambda _: dropped("failed-stream"),
            refused=lambda: dropped("too-many-connections"),
            stranger=self._strangers.add,
            gate=self._gate,
        )
        provider_addresses = partial(
            multiaddrs.provider_addresses,
            self._host,
            settings.registry_host,
            settings.registry_port,
        )
        self._kademlia = KademliaClient(self._host)
        self._requests = RequestResponseClient(self._host)
        self._keep_requests = RequestResponseClient(self._host, protocol=request_response.REPLICAS)
        self._context = AnnounceContext(
            own=self._host.get_id(),
            local=local,
            hello=Hello(
                settings.interval,
                settings.registry_host,
                settings.registry_port,
                settings.agent,
                shares=settings.shares,
                floor=settings.floor,
                zone=settings.zone,
                tls=settings.tls,
                pings=settings.pings,
            ),
            limit=settings.mesh_limit,
            replication=settings.replication,
            password=PasswordProof(settings.password, settings.other_passwords),
            secret=settings.secret,
        )
        self._mesh = Mesh(
            host=self._host,
            table=table,
            kademlia=self._kademlia,
            context=self._context,
            provider_addresses=provider_addresses,
            carried=carried,
            dropped=dropped,
            rng=rng,
            counted=counted,
            changed=changed,
        )
        swarm = cast("MeshSwarm", self._host.get_network())
        swarm.answered = self._mesh.prober.answered
        self._dht = Dht(
            own=self._host.get_id(),
            table=table,
            local=local,
            kademlia=self._kademlia,
            mesh=self._mesh,
            provider_addresses=provider_addresses,
            registry_port=settings.registry_port,
        )
        server = KademliaServer(
            self._host,
            KademliaBackend(self._dht.providers, self._dht.closest, self._dht.provide, dropped),
        )
        receiver = announce.AnnounceReceiver(
            table=table,
            clock=time.monotonic,
            address_of=self._mesh.address_of,
            claims=self._mesh.claims,
            knows_password=self._context.knows_password,
            dropped=dropped,
            left=self._mesh.left,
            carried=carried,
            pings=self._mesh.set_pings_too,
        )
        self._host.set_stream_handler(kademlia.PROTOCOL, server.handle)
        self._host.set_stream_handler(announce.PROTOCOL, receiver.handle)
        if settings.shares:
            self._host.set_stream_handler(
                request_response.PROTOCOL,
                RequestResponseHandler(at_once(handler), dropped).handle,
            )
        if settings.floor is not None:
            self._host.set_stream_handler(
                request_response.REPLICAS,
                RequestResponseHandler(at_once(keep_handler), dropped).handle,
            )
        if settings.pings:
            self._host.set_stream_handler(
                prober.PROTOCOL, RequestResponseHandler(self._mesh.prober.respond, dropped).handle
            )

    async def run(
        self, stop: trio.Event, task_status: TaskStatus = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and tend peers until `stop` is set, then say goodbye."""
        async with (
            self._host.run(self._listen),
            self._kademlia.running(),
            self._requests.running(),
            self._keep_requests.running(),
            trio.open_nursery() as nursery,
        ):
            if len(self._host.get_network().listeners) < len(self._listen):
                raise RouterUnavailable(f"cannot listen on {', '.join(map(str, self._listen))}")
            await nursery.start(self._mesh.run)
            task_status.started()
            try:
                await stop.wait()
                await self._mesh.say_goodbye(timeout=GOODBYE_TIMEOUT)
            finally:
                try:
                    await closing.hang_up_all(self._host)
                finally:  # an open one looks alive to its peer, which may say goodbye into it
                    closing.shut_connections(self._host)
            nursery.cancel_scope.cancel()

    # Called from the asyncio side, through the bridge

    async def advertise(self, keys: Collection[bytes], pulled: Mapping[bytes, float]) -> None:
        """Add local keys; `pulled` is on the monotonic clock."""
        is_new, has_new_times = self._local.add(keys), self._local.record_pulls(pulled)
        if is_new or has_new_times:
            self._context.wake()

    async def withdraw(self, keys: Collection[bytes]) -> None:
        """Remove local keys."""
        if self._local.remove(keys):
            self._context.wake()

    async def bootstrap(self, targets: Sequence[Target]) -> int:
        """Connect to the targets. Return the number of other nodes among them."""
        async with trio.open_nursery() as nursery:
            for target in targets:
                expected = ID.from_base58(target.peer) if target.peer else None
                nursery.start_soon(self._mesh.discovery.dial, [Multiaddr(target.address)], expected)
        own = str(self._host.get_id())
        return sum(
            target.peer != own and not self._mesh.dialler.is_own(target.address)
            for target in targets
        )

    async def use_keys(self, keys: Sequence[ClusterKey]) -> None:
        """Use other keys of the cluster, and close the connections made with a removed one.

        Each peer first gets a connection with a present key, so that it is not missed for a moment.
        """
        self._gate.keys = tuple(keys)
        network = self._host.get_network()
        by_removed = [one for one in network.get_connections() if _has_other_key(one, keys)]
        with trio.move_on_after(REPLACING):
            async with trio.open_nursery() as nursery:
                for peer in {one.muxed_conn.peer_id for one in by_removed}:
                    if all(_has_other_key(one, keys) for one in network.get_connections(peer)):
                        nursery.start_soon(self._mesh.dialler.dial_again, peer)
        for connection in by_removed:
            await closing.hang_up([connection])
            await trio.sleep(BETWEEN_HANG_UPS)

    def keyed_peers(self) -> frozenset[str]:
        """Return the ids of the peers connected with a key. It may be called in any thread."""
        network = self._host.get_network()
        return frozenset(
            str(peer)
            for peer in self._mesh.peers()
            if any(mesh_swarm.is_keyed(each) for each in network.get_connections(peer))
        )

    async def dial_lost(self) -> None:
        """Dial a few of the lost peers."""
        await self._mesh.discovery.dial_lost()

    async def find_providers(
        self, key: bytes, found: Callable[[Peer], None], limit: int, known: set[str]
    ) -> None:
        """Look up a key in the DHT: see `Dht.find_providers`."""
        await self._dht.find_providers(key, found, limit, known)

    async def request(self, peer: str, message: bytes) -> bytes:
        """Return a peer's response to a request."""
        return await self._requests.request(ID.from_base58(peer), message)

    async def request_keep(self, peer: str, message: bytes) -> bytes:
        """Return a peer's response to a request about replicas."""
        return await self._keep_requests.request(ID.from_base58(peer), message)

    async def report_refusal(self, peer: str) -> None:
        """Tell all members that a peer's registry does not answer."""
        self._mesh.prober.report_refusal(peer)

    def watched(self) -> Mapping[str, Watched]:
        """Return what pings show about each connected peer. It may be called in any thread."""
        return self._mesh.prober.watched()

    @property
    def has_lost(self) -> bool:
        """True if there are lost peers to dial. It may be read in any thread."""
        return self._mesh.discovery.has_lost

    @property
    def beat_at(self) -> float:
        """The monotonic time at which the Trio side last went round. It may be read in any
        thread."""
        return self._mesh.prober.beat_at

    def shut(self) -> None:
        """Shut all sockets from another thread, when this life hangs and is abandoned."""
        closing.shut_sockets(self._host)

    def duplicate_identities(self) -> Mapping[str, str]:
        """Return the nodes that share an identity, each with a sentence for people."""
        return self._mesh.duplicates.current()

    def addresses(self) -> list[str]:
        """Return the addresses this node announces, with its id."""
        return [str(address) for address in self._host.get_addrs()]


def _has_other_key(connection: INetConn, keys: Sequence[ClusterKey]) -> bool:
    """Return True if a connection is encrypted with a key that is none of these."""
    key = key_of(mesh_swarm.raw_connection(connection))
    return key is not None and key not in keys
