"""Finds the current holders of content, as a pull does, but fetches nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from spegel_py.errors import ContentNotFound, RoutingError, StoreUnavailable
from spegel_py.health.peer_health import HealthState
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.outcomes import LocalState
from spegel_py.routing.base import Router
from spegel_py.store.base import Store

WITHIN = 3.0
"""Seconds that a lookup may take. A pull waits less, so late results explain a miss."""

PEERS = 100
"""Peers named at most."""


class HolderLookup:
    """Asks the `store` and the `router`; `health` returns the health of a peer by its id."""

    def __init__(
        self,
        *,
        store: Store,
        router: Router,
        health: Callable[[str], HealthState],
        within: float = WITHIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._router = router
        self._health = health
        self._within = within
        self._clock = clock

    def __repr__(self) -> str:
        return f"<HolderLookup by {self._router!r}>"

    async def resolve(self, text: str) -> dict[str, object]:
        """Return the holders of a digest or a reference as JSON.

        A reference with a tag and a digest is looked up by the digest. `ms` of a peer is the time
        from the start until it was found. `ended` is false if the lookup was cut off. Raises
        NameInvalid and DigestInvalid.
        """
        key = _key(text)
        local, digest = await self._here(key)
        began, peers, ended, error = self._clock(), [], False, None
        try:
            async with asyncio.timeout(self._within):
                async for peer in self._router.lookup(key, limit=PEERS):
                    ms = self._since(began)
                    peers.append(
                        {
                            "id": peer.id,
                            "address": peer.authority,
                            "health": self._health(peer.id).value,
                            "ms": ms,
                        }
                    )
                ended = True
        except TimeoutError:
            pass  # the peers found so far are returned, with `ended` false
        except RoutingError as failure:
            error = str(failure)
        return {
            "key": key,
            "local": local.value,
            "digest": digest,
            "peers": peers,
            "ended": ended,
            "error": error,
            "ms": self._since(began),
        }

    async def _here(self, key: str) -> tuple[LocalState, str | None]:
        """Return the state of the content in this node's store, and its digest if it is known."""
        try:
            digest = (await self._store.resolve(key)).digest if "/" in key else Digest.parse(key)
            return LocalState.HELD, str((await self._store.stat(digest)).digest)
        except ContentNotFound:
            return LocalState.ABSENT, None
        except StoreUnavailable:
            return LocalState.AWAY, None

    def _since(self, began: float) -> float:
        return round((self._clock() - began) * 1000, 1)


def _key(text: str) -> str:
    if "/" not in text:
        return str(Digest.parse(text))
    reference = Reference.parse(text)
    return str(reference.digest or reference.key)
