"""The Router port over libp2p, seen from asyncio: lookups from the record table, the rest through the Trio thread.

The Trio side may die; it is started again with back-off, while lookups find nobody and the node goes on serving what
it holds itself. What this node advertises is kept here, so that a new life tells it anew.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog
import trio

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import NOTHING, Life, Member, Peer
from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.addresses import check_port_free
from spegel_py.routing.libp2p.announce import Carried
from spegel_py.routing.libp2p.bootstrap import Bootstrap, Target
from spegel_py.routing.libp2p.joining import Joining
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.request_response import Libp2pRequestResponse
from spegel_py.routing.libp2p.service import RouterSettings, Service
from spegel_py.routing.libp2p.sharing import LocalKeys
from spegel_py.routing.libp2p.thread import TrioThread

log = structlog.get_logger(__name__)

RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before starting the Trio side again, by the number of its deaths in a row; the last one repeats."""
STEADY_AFTER = 60.0
"""Seconds of life after which a death counts as the first again."""
STOP_TIMEOUT = 4.0
"""Seconds for goodbyes and closing at the end."""


class Libp2pRouter:
    """Finds peers through the DHT. Use `running()` around its life."""

    def __init__(
        self,
        *,
        settings: RouterSettings,
        bootstrap: Bootstrap,
        dropped: Callable[[str], None] = lambda reason: None,
        carried: Carried = lambda direction, frame, size: None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._dropped = dropped
        self._carried = carried
        self._rng = rng or random.Random()
        self._table = RecordTable(rng=self._rng)
        self._keys: dict[
            bytes, float | None
        ] = {}  # with when it was pulled, of a tag, on the monotonic clock
        self._thread: TrioThread | None = None
        self._service: Service | None = None
        self._given_up = asyncio.Event()
        self._life = Life(number=0, is_up=False, since=time.monotonic())
        self._life_changed = asyncio.Event()
        self.requests = Libp2pRequestResponse(
            id=self.id, table=lambda: self._table, send=self._request
        )
        self._joining = Joining(
            bootstrap=bootstrap,
            is_connected=lambda: bool(self._table.connected()),
            reach=self._reach,
            seek=self._seek,
            rng=self._rng,
        )

    def __repr__(self) -> str:
        return f"<Libp2pRouter {'up' if self._thread else 'down'}, {len(self._keys)} keys, {self._table!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Libp2pRouter]:
        """Run the Trio side and its bootstrap until the block is left, then say goodbye to all peers.

        Raises ConfigError if the port is taken, and whatever keeps the first start from coming up.
        """
        compat.silence()
        compat.self_test()
        check_port_free(self._settings.host, self._settings.port, flag="--router-addr")
        thread = await self._start()
        async with AsyncExitStack() as stack:
            tasks = [
                asyncio.create_task(self._supervise(thread), name="libp2p supervisor"),
                asyncio.create_task(self._joining.run(), name="libp2p joining"),
            ]
            stack.push_async_callback(self._close, tasks)
            yield self

    # The port

    async def lookup(
        self, key: str, *, limit: int, max_age: float = math.inf
    ) -> AsyncIterator[Peer]:
        hashed, now = name_hash(key), time.monotonic()
        found = self._table.providers(hashed, now, max_age=max_age)[:limit]
        for peer in found:
            yield peer
        if (
            len(found) >= limit
            or self._table.knows_all(now)
            or (found and not self._table.is_partial())
        ):
            return
        async for peer in self._hop(hashed, limit, {peer.id for peer in found}):
            yield peer

    async def advertise(
        self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING
    ) -> None:
        ahead = time.time() - time.monotonic()
        hashed = {name_hash(key): pulled[key] - ahead if key in pulled else None for key in keys}
        self._keys.update(hashed)
        if self._service is not None:
            await self._tell(self._service.advertise, hashed.keys(), _times(hashed))

    async def withdraw(self, keys: Collection[str]) -> None:
        hashed = [name_hash(key) for key in keys]
        for key in hashed:
            self._keys.pop(key, None)
        if self._service is not None:
            await self._tell(self._service.withdraw, hashed)

    async def ready(self) -> bool:
        return bool(self._table.connected())

    # For metrics, the state and bootstrap pages, and tests

    @property
    def id(self) -> str:
        """This node's own peer id."""
        return str(compat.peer_id(self._settings.key))

    def connected(self) -> list[str]:
        """Return the peer ids connected now."""
        return self._table.connected()

    def members(self) -> list[Member]:
        """Return what is known of each peer connected now."""
        return self._table.members(time.monotonic())

    def left(self, peer_id: str) -> bool:
        """Say whether a peer that is not connected any more has said goodbye."""
        return self._table.left(peer_id)

    def records(self) -> int:
        """Return the number of records held of other peers."""
        return self._table.size()

    def records_by_kind(self) -> Mapping[str, int]:
        """Return that number by how the records came."""
        return self._table.records()

    def protocols(self) -> Mapping[str, int]:
        """Return the number of peers connected now by what they speak."""
        return self._table.protocols()

    def addresses(self) -> list[str]:
        """Return this node's own multiaddrs with its peer id; empty while the Trio side is down."""
        return self._service.addresses() if self._service is not None else []

    # For supervision

    def twins(self) -> Mapping[str, str]:
        """Return the nodes that share an identity, by address or peer id, each with a sentence that says where."""
        return self._service.twins() if self._service is not None else {}

    @property
    def life(self) -> Life:
        """How the Trio side fares."""
        return self._life

    @property
    def expects_peers(self) -> bool:
        """Whether there ought to be other nodes, as far as the bootstrap says."""
        return self._joining.expects_peers

    def goodbyes(self) -> frozenset[str]:
        """Return the peer ids that left with a goodbye lately and are not back."""
        return self._table.goodbyes()

    async def ping(self) -> None:
        """Return when the Trio side has answered; RouterUnavailable if it is down, never if it hangs."""
        if self._thread is None:
            raise RouterUnavailable("the libp2p side is not running")
        await self._thread.call(trio.lowlevel.checkpoint)

    async def rejoin(self) -> None:
        """Look for peers now, lost ones too."""
        await self._joining.now()

    async def restart(self) -> None:
        """Return when a new life is up: the present one, which may hang, is left behind with its sockets shut."""
        number = self._life.number
        if self._life.is_up:
            self._given_up.set()
        await self.revived(after=number)

    async def revived(self, *, after: int = 0) -> None:
        """Return when a life later than number `after` is up."""
        while not (self._life.is_up and self._life.number > after):
            await self._life_changed.wait()

    async def crash(self) -> None:
        """Kill the Trio side, as a fault in it would: for tests of what follows."""
        if self._thread is not None:
            await self._tell(self._thread.crash)

    async def hang(self, stuck: Callable[[], object]) -> None:
        """Run a function that blocks on the Trio side, as a fault in it would: for tests of what follows."""
        if self._thread is not None:
            await self._tell(self._thread.hang, stuck)

    # Inside

    async def _hop(self, key: bytes, limit: int, known: set[str]) -> AsyncIterator[Peer]:
        service, thread = self._service, self._thread
        if service is None or thread is None:
            return
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Peer | None] = asyncio.Queue()

        def found(peer: Peer) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, peer)

        call = asyncio.ensure_future(thread.call(service.hop, key, found, limit, known))
        call.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (peer := await queue.get()) is not None:
                yield peer
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def _tell(self, function: Callable[..., object], *args: object) -> None:
        if self._thread is None:
            return
        try:
            await self._thread.call(function, *args)  # type: ignore[arg-type]  # all of them are async
        except RouterUnavailable:
            log.debug("libp2p side is down; it will be told when it is up again")

    async def _start(self) -> TrioThread:
        loop, local = asyncio.get_running_loop(), LocalKeys()
        local.add(self._keys)
        local.age(_times(self._keys))
        # a table of its own for each life: one that was left behind may wake up, and must not write into this one's
        self._table = RecordTable(
            rng=self._rng, changed=partial(_set_soon, self.requests.changed, loop)
        )
        service = Service(
            settings=self._settings,
            table=self._table,
            local=local,
            dropped=self._dropped,
            rng=self._rng,
            handler=self.requests.handle,
            carried=self._carried,
        )
        thread = TrioThread(service.run)
        await thread.start()
        self._service, self._thread = service, thread
        self._begin(
            replace(self._life, number=self._life.number + 1, is_up=True, since=time.monotonic())
        )
        if missed := {key: at for key, at in self._keys.items() if key not in local.keys}:
            await self._tell(service.advertise, missed.keys(), _times(missed))
        log.info("libp2p up", addresses=service.addresses())
        return thread

    def _begin(self, life: Life) -> None:
        changed, self._life, self._life_changed = self._life_changed, life, asyncio.Event()
        changed.set()

    async def _supervise(self, thread: TrioThread) -> None:
        deaths = 0
        while True:
            born = time.monotonic()
            death = await self._end_of(thread)
            self._service = self._thread = None
            self._table.clear()
            died = time.monotonic()
            self._begin(replace(self._life, is_up=False, since=died, died=died, cause=repr(death)))
            deaths = 1 if time.monotonic() - born > STEADY_AFTER else deaths + 1
            log.error(
                "libp2p side died; serving local content only until it is up again",
                error=repr(death),
            )
            while True:
                delay = RESTART_DELAYS[min(deaths, len(RESTART_DELAYS)) - 1]
                await asyncio.sleep(delay)
                try:
                    thread = await self._start()
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, the node must go on and try again
                    deaths += 1
                    log.debug("libp2p side did not start", error=repr(error))

    async def _end_of(self, thread: TrioThread) -> BaseException | None:
        """Return what a life died of; one that was given up is left behind, since a thread cannot be ended."""
        self._given_up.clear()
        end, given_up = (
            asyncio.ensure_future(thread.ended()),
            asyncio.ensure_future(self._given_up.wait()),
        )
        try:
            await asyncio.wait((end, given_up), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
        finally:
            end.cancel()
            given_up.cancel()
        thread.abandon()
        if self._service is not None:
            self._service.shut()
        return RouterUnavailable("it did not answer")

    async def _request(self, peer: str, message: bytes) -> bytes:
        service, thread = self._service, self._thread
        if service is None or thread is None:
            raise RouterUnavailable("the libp2p side is not running")
        return await thread.call(service.request, peer, message)

    async def _reach(self, targets: Sequence[Target]) -> int:
        service, thread = self._service, self._thread
        if service is None or thread is None:
            raise RouterUnavailable("the libp2p side is not running")
        return await thread.call(service.bootstrap, targets)

    async def _seek(self) -> None:
        if self._service is not None:
            await self._tell(self._service.seek)

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._thread is not None:
            await self._thread.stop(timeout=STOP_TIMEOUT)
        self._service = self._thread = None
        self._table.clear()


def _set_soon(event: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(event.set)


def _times(keys: Mapping[bytes, float | None]) -> dict[bytes, float]:
    return {key: at for key, at in keys.items() if at is not None}
