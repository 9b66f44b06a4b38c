"""The Router port over libp2p, on the asyncio side.

Lookups read the record table; the rest goes through the Trio thread. While the Trio side is down,
lookups find no peer, and the node serves its local content. The advertised keys are kept here, so
that a new life of the Trio side announces them again.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from spegel_py.routing.base import NOTHING, Life, Member, Peer
from spegel_py.routing.cluster_keys import ClusterKey
from spegel_py.routing.libp2p.bootstrap import Bootstrap, Joining
from spegel_py.routing.libp2p.bootstrap_targets import Target
from spegel_py.routing.libp2p.identity import peer_name
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.partner_requests import Libp2pRequestResponse
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.routing.libp2p.trio_side import TrioSide
from spegel_py.routing.peer_proofs import PeerKey
from spegel_py.tools.addresses import check_port_free

if TYPE_CHECKING:
    from spegel_py.routing.libp2p.announce import Carried
    from spegel_py.routing.libp2p.prober import Watched
    from spegel_py.routing.libp2p.service import Service
    from spegel_py.routing.libp2p.sharing import LocalKeys


class Libp2pRouter:
    """Finds peers through the DHT. Use `running()` around its life."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        bootstrap: Bootstrap,
        keys: Sequence[ClusterKey] = (),
        dropped: Callable[[str], None] = lambda reason: None,
        carried: Carried = lambda direction, frame, size: None,
        counted: Callable[[str], None] = lambda event: None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._cluster_keys = tuple(keys)
        self._id = peer_name(settings.key)
        self._dropped = dropped
        self._carried = carried
        self._counted = counted
        self.on_change: Callable[[], None] = lambda: None
        """Is called in the event loop when `members` may have changed in more than numbers."""
        self._rng = rng or random.Random()
        self._table = RecordTable(rng=self._rng, zone=settings.zone)
        self._local: LocalKeys | None = None  # of the present life
        # Of a tag, with the monotonic time of its pull.
        self._keys: dict[bytes, float | None] = {}
        self._side = TrioSide(
            make=self._make_service, on_up=self._advertise_missed, on_down=self._forget_peers
        )
        self.requests, self.keep_requests = (
            Libp2pRequestResponse(
                id=self.id, table=lambda: self._table, partners=partners, send=send
            )
            for partners, send in (
                (RecordTable.partners, self._request),
                (RecordTable.keepers, self._request_keep),
            )
        )
        self._joining = Joining(
            bootstrap=bootstrap,
            is_connected=lambda: bool(self._table.connected()),
            dial_targets=self._dial_targets,
            dial_lost=self._dial_lost,
            rng=self._rng,
        )

    def __repr__(self) -> str:
        return f"<Libp2pRouter {self._side!r}, {len(self._keys)} keys, {self._table!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Libp2pRouter]:
        """Run the Trio side and its bootstrap while the block lasts, then say goodbye to all peers.

        Raises ConfigError if the port is taken, and the error of a failed first start.
        """
        check_port_free(self._settings.host, self._settings.port, flag="--router-addr")
        thread = await self._side.start()
        tasks = [
            asyncio.create_task(self._side.keep_up(thread), name="libp2p supervisor"),
            asyncio.create_task(self._joining.run(), name="libp2p joining"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._side.stop()

    # The port

    async def lookup(
        self, key: str, *, limit: int, max_age: float = math.inf
    ) -> AsyncIterator[Peer]:
        hashed, now = name_hash(key), time.monotonic()
        found = self._table.providers(hashed, now, max_age=max_age, limit=limit)
        for peer in found:
            yield peer
        # Case 1: enough were found.
        # Case 2: the table has every peer's whole set, so there are no others.
        # Case 3: some were found, and no peer announces to the closest peers only.
        if (
            len(found) >= limit
            or self._table.knows_all(now)
            or (found and not self._table.is_partial())
        ):
            return
        # Case 4: the peers closest to the key may know others.
        async for peer in self._find_providers(hashed, limit, {peer.id for peer in found}):
            yield peer

    async def advertise(
        self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None:
        ahead = time.time() - time.monotonic()
        hashed = {name_hash(key): pulled[key] - ahead if key in pulled else None for key in keys}
        self._keys.update(hashed)
        await self._side.call_if_up(
            lambda service: service.advertise(hashed.keys(), _times(hashed))
        )

    async def withdraw(self, keys: Collection[str]) -> None:
        hashed = [name_hash(key) for key in keys]
        for key in hashed:
            self._keys.pop(key, None)
        await self._side.call_if_up(lambda service: service.withdraw(hashed))

    async def use_keys(self, keys: Sequence[ClusterKey]) -> None:
        """Use other keys of the cluster from now on; peers with a removed key are dialled anew."""
        self._cluster_keys = tuple(keys)
        await self._side.call_if_up(lambda service: service.use_keys(keys))

    # For metrics, the state and bootstrap pages, and tests

    @property
    def id(self) -> str:
        """This node's own peer id."""
        return self._id

    def connected(self) -> list[str]:
        """Return the peer ids connected now."""
        return self._table.connected()

    def floors(self) -> Mapping[str, int]:
        """Return the floor of each connected peer that answers requests about replicas, by id."""
        return self._table.floors(time.monotonic())

    def zones(self) -> Mapping[str, str]:
        """Return the zones of the peers that named one, by id, with those of lost peers."""
        return self._table.zones()

    def members(self) -> list[Member]:
        """Return a description of each peer connected now."""
        now, service = time.monotonic(), self._side.service
        watched = service.watched() if service is not None else {}
        return [
            _described(member, watched.get(member.id), now) for member in self._table.members(now)
        ]

    def http_key(self, peer_id: str) -> PeerKey | None:
        """Return the key for HTTP requests to a connected peer, None if it told none."""
        return self._table.http_key(peer_id)

    def is_member(self, peer_id: str) -> bool:
        """Return True if a peer is connected, and knows this node's password if there is one."""
        if not self._settings.password:
            return self._table.is_connected(peer_id)
        peer = self._table.address(peer_id)
        return peer is not None and peer.knows_password

    def report_refusal(self, peer_id: str) -> None:
        """Tell all peers that the registry of one does not answer."""
        self._side.call_soon(lambda service: service.report_refusal(peer_id))

    def left(self, peer_id: str) -> bool:
        """Return True if a peer said goodbye and is not back."""
        return self._table.left(peer_id)

    def records(self) -> int:
        """Return the number of records of other peers."""
        return self._table.size()

    def records_by_kind(self) -> Mapping[str, int]:
        """Return the number of records that were announced, and that were provided one by one."""
        return self._table.records()

    def protocols(self) -> Mapping[str, int]:
        """Return the number of connected peers by protocol."""
        return self._table.protocols()

    def keyed(self) -> frozenset[str]:
        """Return the ids of the connected peers with a key of the cluster."""
        service = self._side.service
        return service.keyed_peers() if service is not None else frozenset()

    def sign(self, data: bytes) -> bytes:
        """Return the signature of this node's key, of which the peer id shows the public half."""
        return self._settings.key.sign(data)

    def members_by_kind(self) -> Mapping[str, int]:
        """Return the number of connected peers with a key of the cluster, and without."""
        keyed = len(self.keyed())
        return {"keyed": keyed, "clear": max(0, len(self.connected()) - keyed)}

    def tls_members(self) -> Mapping[str, int]:
        """Return the number of connected peers that can be asked by TLS, and of all others."""
        members = self._table.members(time.monotonic())
        encrypted = sum(1 for each in members if each.peer and each.peer.has_tls)
        return {"encrypted": encrypted, "clear": max(0, len(self.connected()) - encrypted)}

    def addresses(self) -> list[str]:
        """Return this node's own multiaddrs with its peer id; empty while the Trio side is down."""
        return self._side.service.addresses() if self._side.service is not None else []

    # For supervision

    def duplicate_identities(self) -> Mapping[str, str]:
        """Return the nodes that share an identity, by address or peer id, with a sentence each."""
        return self._side.service.duplicate_identities() if self._side.service is not None else {}

    @property
    def life(self) -> Life:
        """The state of the Trio side."""
        return self._side.life

    @property
    def expects_peers(self) -> bool:
        """True if there should be other nodes, as far as the bootstrap source shows."""
        return self._joining.expects_peers

    def goodbyes(self) -> frozenset[str]:
        """Return the peers that said goodbye lately and are not back."""
        return self._table.goodbyes()

    async def ping(self) -> None:
        """Return once the Trio side has answered: see `TrioSide.ping`."""
        await self._side.ping()

    async def rejoin(self) -> None:
        """Search for peers now, lost ones too."""
        await self._joining.now()

    async def restart(self) -> None:
        """Return once a new life is up: see `TrioSide.restart`."""
        await self._side.restart()

    async def revived(self, *, after: int = 0) -> None:
        """Return once a life with a number above `after` is up."""
        await self._side.revived(after=after)

    async def crash(self) -> None:
        """End the Trio side as a fault would, for tests."""
        await self._side.crash()

    async def hang(self, stuck: Callable[[], object]) -> None:
        """Block the Trio side with a function as a fault would, for tests."""
        await self._side.hang(stuck)

    # Inside

    async def _find_providers(self, key: bytes, limit: int, known: set[str]) -> AsyncIterator[Peer]:
        if self._side.service is None:
            return
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Peer | None] = asyncio.Queue()

        def found(peer: Peer) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, peer)

        lookup = self._side.call(lambda service: service.find_providers(key, found, limit, known))
        call = asyncio.ensure_future(lookup)
        call.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (peer := await queue.get()) is not None:
                yield peer
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    def _make_service(self) -> Service:
        """Return the service of a new life.

        Each life has its own table: an abandoned life may wake up, and must not write into this
        one's.
        """
        from spegel_py.routing.libp2p.service import Service
        from spegel_py.routing.libp2p.sharing import LocalKeys

        self._local = local = LocalKeys()
        local.add(self._keys)
        local.record_pulls(_times(self._keys))
        loop = asyncio.get_running_loop()
        self._table = RecordTable(
            rng=self._rng,
            zone=self._settings.zone,
            changed=partial(_call_soon, self._partners_changed, loop),
            shed=partial(self._dropped, "table-full"),
        )
        return Service(
            settings=self._settings,
            table=self._table,
            local=local,
            dropped=self._dropped,
            rng=self._rng,
            handler=self.requests.handle,
            keep_handler=self.keep_requests.handle,
            keys=self._cluster_keys,
            carried=self._carried,
            counted=self._counted,
            changed=partial(_call_soon, self._members_changed, loop),
        )

    async def _advertise_missed(self) -> None:
        """Advertise the keys that came while the new life was starting."""
        known = self._local.keys if self._local is not None else frozenset()
        if missed := {key: at for key, at in self._keys.items() if key not in known}:
            await self._side.call_if_up(
                lambda service: service.advertise(missed.keys(), _times(missed))
            )

    def _partners_changed(self) -> None:
        self.requests.changed.set()
        self.keep_requests.changed.set()

    def _members_changed(self) -> None:
        self._joining.members_changed()
        self.on_change()

    def _forget_peers(self) -> None:
        self._table.clear()
        self._members_changed()

    async def _request(self, peer: str, message: bytes) -> bytes:
        return await self._side.call(lambda service: service.request(peer, message))

    async def _request_keep(self, peer: str, message: bytes) -> bytes:
        return await self._side.call(lambda service: service.request_keep(peer, message))

    async def _dial_targets(self, targets: Sequence[Target]) -> int:
        return await self._side.call(lambda service: service.bootstrap(targets))

    async def _dial_lost(self) -> None:
        if self._side.service is None or not self._side.service.has_lost:
            return
        await self._side.call_if_up(lambda service: service.dial_lost())


def _described(member: Member, watched: Watched | None, now: float) -> Member:
    """Return a member with what its pings show.

    A peer that pings too announces rarely, so its announcements are no heartbeats.
    """
    if watched is None:
        return member
    heard = member.heard
    if heard is not None and watched.heard is not None:
        heard = min(heard, now - watched.heard)
    return replace(
        member,
        heard=heard,
        interval=None if watched.pings_too else member.interval,
        left=watched.left,
        refused=watched.refused,
    )


def _call_soon(callback: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(callback)


def _times(keys: Mapping[bytes, float | None]) -> dict[bytes, float]:
    return {key: at for key, at in keys.items() if at is not None}
