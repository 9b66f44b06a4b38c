"""The Router port over libp2p, seen from asyncio: lookups from the record table, the rest through the Trio thread.

The Trio side may die; it is started again with back-off, while lookups find nobody and the node goes on serving what
it holds itself. What this node advertises is kept here, so that a new life tells it anew.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from spegel_py.errors import RouterUnavailable
from spegel_py.routing.base import NOTHING, Member, Peer
from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.bootstrap import Bootstrap
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.service import Service, Settings
from spegel_py.routing.libp2p.sharing import LocalKeys
from spegel_py.routing.libp2p.thread import TrioThread

log = structlog.get_logger(__name__)

RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before starting the Trio side again, by the number of its deaths in a row; the last one repeats."""
STEADY_AFTER = 60.0
"""Seconds of life after which a death counts as the first again."""
BOOTSTRAP_DELAYS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between bootstrap attempts while nobody is connected; the last one repeats, each ± 30 %."""
STOP_TIMEOUT = 4.0
"""Seconds for goodbyes and closing at the end."""


class Libp2pRouter:
    """Finds peers through the DHT. Use `running()` around its life."""

    def __init__(
        self,
        *,
        settings: Settings,
        bootstrap: Bootstrap,
        dropped: Callable[[str], None] = lambda reason: None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._bootstrap = bootstrap
        self._dropped = dropped
        self._rng = rng or random.Random()
        self._table = RecordTable(rng=self._rng)
        self._keys: dict[bytes, float | None] = {}  # with when it was pulled, of a tag, on the monotonic clock
        self._thread: TrioThread | None = None
        self._service: Service | None = None

    def __repr__(self) -> str:
        return f"<Libp2pRouter {'up' if self._thread else 'down'}, {len(self._keys)} keys, {self._table!r}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Libp2pRouter]:
        """Run the Trio side and its bootstrap until the block is left, then say goodbye to all peers.

        Raises ConfigError if the port is taken, and whatever keeps the first start from coming up.
        """
        compat.silence()
        compat.self_test()
        compat.check_port_free(self._settings.host, self._settings.port, flag="--router-addr")
        thread = await self._start()
        async with AsyncExitStack() as stack:
            tasks = [
                asyncio.create_task(self._supervise(thread), name="libp2p supervisor"),
                asyncio.create_task(self._keep_bootstrapping(), name="libp2p bootstrap"),
            ]
            stack.push_async_callback(self._close, tasks)
            yield self

    # The port

    async def lookup(self, key: str, *, limit: int, max_age: float = math.inf) -> AsyncIterator[Peer]:
        hashed, now = name_hash(key), time.monotonic()
        found = self._table.providers(hashed, now, max_age=max_age)[:limit]
        for peer in found:
            yield peer
        if len(found) >= limit or self._table.knows_all(now) or (found and not self._table.is_partial()):
            return
        async for peer in self._hop(hashed, limit, {peer.id for peer in found}):
            yield peer

    async def advertise(self, keys: Collection[str], *, pulled: Mapping[str, float] = NOTHING) -> None:
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

    def records(self) -> int:
        """Return the number of records held of other peers."""
        return self._table.size()

    def addresses(self) -> list[str]:
        """Return this node's own multiaddrs with its peer id; empty while the Trio side is down."""
        return self._service.addresses() if self._service is not None else []

    async def crash(self) -> None:
        """Kill the Trio side, as a fault in it would: for tests of what follows."""
        if self._thread is not None:
            await self._tell(self._thread.crash)

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
        local = LocalKeys()
        local.add(self._keys)
        local.age(_times(self._keys))
        self._table.clear()
        service = Service(settings=self._settings, table=self._table, local=local, dropped=self._dropped, rng=self._rng)
        thread = TrioThread(service.run)
        await thread.start()
        self._service, self._thread = service, thread
        if missed := {key: at for key, at in self._keys.items() if key not in local.keys}:
            await self._tell(service.advertise, missed.keys(), _times(missed))
        log.info("libp2p up", addresses=service.addresses())
        return thread

    async def _supervise(self, thread: TrioThread) -> None:
        deaths = 0
        while True:
            born = time.monotonic()
            death = await thread.ended()
            self._service = self._thread = None
            self._table.clear()
            deaths = 1 if time.monotonic() - born > STEADY_AFTER else deaths + 1
            log.error("libp2p side died; serving local content only until it is up again", error=repr(death))
            while True:
                delay = RESTART_DELAYS[min(deaths, len(RESTART_DELAYS)) - 1]
                await asyncio.sleep(delay)
                try:
                    thread = await self._start()
                    break
                except Exception as error:  # noqa: BLE001 - whatever it is, the node must go on and try again
                    deaths += 1
                    log.debug("libp2p side did not start", error=repr(error))

    async def _keep_bootstrapping(self) -> None:
        attempt = 0
        while True:
            if await self._bootstrap_once():
                attempt, delay = 0, self._bootstrap.interval
            else:
                delay = BOOTSTRAP_DELAYS[min(attempt, len(BOOTSTRAP_DELAYS) - 1)]
                attempt += 1
            await self._isolated_or(delay * self._rng.uniform(0.7, 1.3))

    async def _isolated_or(self, delay: float) -> None:
        """Wait for `delay` seconds; shorter if the last peer goes meanwhile."""
        had_peers = bool(self._table.connected())
        end = time.monotonic() + delay
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))
            if had_peers and not self._table.connected():
                return

    async def _bootstrap_once(self) -> bool:
        """Try the bootstrap targets; say whether any peer is connected afterwards."""
        targets = await self._bootstrap.find()
        service, thread = self._service, self._thread
        if service is not None and thread is not None and targets:
            try:
                await thread.call(service.bootstrap, targets)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt must come
                log.debug("bootstrap attempt failed", error=repr(error))
        return bool(self._table.connected())

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._thread is not None:
            await self._thread.stop(timeout=STOP_TIMEOUT)
        self._service = self._thread = None
        self._table.clear()


def _times(keys: Mapping[bytes, float | None]) -> dict[bytes, float]:
    return {key: at for key, at in keys.items() if at is not None}
