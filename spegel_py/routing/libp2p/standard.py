"""Keeping a peer up to date that speaks standard Kademlia only (Spegel in Go): provider records, and pings."""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog
import trio
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p.announce import AnnounceContext
from spegel_py.routing.libp2p.kademlia import KademliaClient

log = structlog.get_logger(__name__)

STANDARD_PING_INTERVAL, STANDARD_PING_TIMEOUT = 4.0, 4.0
"""Seconds: a peer without the announce protocol is pinged, so that a stopped one is let go within 8 s."""
STANDARD_REPROVIDE = 600.0
"""Seconds between full rounds of provider records; standard nodes keep them for 19 minutes and more."""


class StandardLink:
    """Tells one peer the `part` of the local keys that it is close to, now and whenever keys come.

    `lost` is told why the peer does not live any more.
    """

    def __init__(
        self,
        *,
        peer: ID,
        kademlia: KademliaClient,
        ping: PingService,
        part: Callable[[], Collection[bytes]],
        situation: AnnounceContext,
        provider_addresses: Callable[[], list[Multiaddr]],
        lost: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._kademlia = kademlia
        self._ping = ping
        self._part = part
        self._situation = situation
        self._provider_addresses = provider_addresses
        self._lost = lost

    async def run(self) -> None:
        """Tell until a request fails (raises) or this task is cancelled."""
        log.info("peer speaks standard kademlia only", peer=str(self._peer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_pinging)
            told: set[bytes] = set()
            renew = trio.current_time() + STANDARD_REPROVIDE
            while True:
                news = self._situation.news
                part = set(self._part())
                if trio.current_time() >= renew:
                    told.clear()
                    renew = trio.current_time() + STANDARD_REPROVIDE
                if missing := part - told:
                    await self._kademlia.add_providers(
                        self._peer, missing, self._provider_addresses()
                    )
                told = part
                with trio.move_on_at(renew):
                    await news.wait()

    async def _keep_pinging(self) -> None:
        while True:
            await trio.sleep(STANDARD_PING_INTERVAL)
            try:
                with trio.fail_after(STANDARD_PING_TIMEOUT):
                    await self._ping.ping(self._peer)
            except Exception as error:  # noqa: BLE001 - any failure means the same
                self._lost(f"no pong: {error!r}")
