"""Finds the current holders of content, as a pull does, but fetches nothing."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection

from spegel_py.errors import ContentNotFound, RoutingError, StoreUnavailable
from spegel_py.health.peer_health import HealthState
from spegel_py.mirror.freshness import Freshness
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.reference import Reference
from spegel_py.outcomes import LocalState
from spegel_py.routing.base import Router
from spegel_py.store.base import Origins, Store, Tag
from spegel_py.wording import NOT_MIRRORED, in_namespaces, tag_too_old

WITHIN = 3.0
"""Seconds that a lookup may take. A pull waits less, so late results explain a miss."""

_DIGEST = re.compile(r"(sha256|sha512):|[a-z0-9]+:[0-9a-fA-F]{32,}$")
"""The form of a digest, also of one that is cut or of an unknown algorithm."""

PEERS = 100
"""Peers named at most."""


class HolderLookup:
    """Asks the `store` and the `router`, as a pull does.

    Args:
        health: returns the health of a peer by its id.
        freshness: decides whether a tag may still be answered.
        filters: decides whether content is mirrored at all.
        origins: returns the repositories that content came from, by which filters decide about a
            digest alone.
        elsewhere: returns the other namespaces of containerd that hold a key.
        shared: the namespaces whose images are shared.
    """

    def __init__(
        self,
        *,
        store: Store,
        router: Router,
        health: Callable[[str], HealthState],
        freshness: Freshness | None = None,
        filters: Filters = EVERYTHING,
        origins: Origins | None = None,
        elsewhere: Callable[[str], Awaitable[Collection[str]]] | None = None,
        shared: Collection[str] = (),
        within: float = WITHIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._router = router
        self._health = health
        self._freshness = freshness or Freshness()
        self._filters = filters
        self._origins = origins
        self._elsewhere = elsewhere
        self._shared = shared
        self._within = within
        self._clock = clock

    def __repr__(self) -> str:
        return f"<HolderLookup by {self._router!r}>"

    async def resolve(self, text: str) -> dict[str, object]:
        """Return the holders of a digest or a reference as JSON.

        A reference with a tag and a digest is looked up by the digest. `ms` of a peer is the time
        from the start until it was found. `ended` is false if the lookup was cut off. `note` says
        why content that is on this machine is not shared, or why peers are not asked for it. Raises
        NameInvalid and DigestInvalid.
        """
        key = key_of(text)
        local, digest, note = await self._here(key)
        if await self._is_excluded(text, local):
            note = NOT_MIRRORED
        began, peers, ended, error = self._clock(), [], False, None
        try:
            async with asyncio.timeout(self._within):
                fresh = await self._fresh(key)
                async for peer in self._router.lookup(key, limit=PEERS):
                    ms = self._since(began)
                    peers.append(
                        {
                            "id": peer.id,
                            "address": peer.authority,
                            "health": self._health(peer.id).value,
                            "ms": ms,
                            "too_old": fresh is not None and peer.id not in fresh,
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
            "note": note,
            "peers": peers,
            "ended": ended,
            "error": error,
            "ms": self._since(began),
        }

    async def _here(self, key: str) -> tuple[LocalState, str | None, str | None]:
        """Return the state of the content in this node's store, its digest, and a note.

        The last two are None if they are not known.
        """
        try:
            tag = await self._store.resolve(key) if "/" in key else None
            digest = tag.digest if tag else Digest.parse(key)
            found = str((await self._store.stat(digest)).digest)
        except ContentNotFound:
            return LocalState.ABSENT, None, await self._note(key)
        except StoreUnavailable as error:
            return LocalState.AWAY, None, str(error)
        return LocalState.HELD, found, self._why_too_old(key, tag) if tag else None

    async def _is_excluded(self, text: str, local: LocalState) -> bool:
        """Return True if this node neither answers a pull of the content nor asks peers for it.

        A digest alone is excluded by its origins, which are known of content that is here.
        """
        if not self._filters:
            return False
        if (label := _label_of(text)) is not None:
            return self._filters.exclude(label)
        if local is not LocalState.HELD or self._origins is None:
            return False
        try:
            return not self._filters.shares(await self._origins.sources(Digest.parse(text)))
        except (ContentNotFound, StoreUnavailable):
            return False

    def _why_too_old(self, key: str, tag: Tag) -> str | None:
        seen, now = self._freshness.last_seen(key, tag.pulled), time.time()
        if self._freshness.is_fresh(seen, now):
            return None
        return tag_too_old(now - seen)

    async def _fresh(self, key: str) -> set[str] | None:
        """Return the peers whose tag is not known to be too old; None if no age matters."""
        if "/" not in key or math.isinf(self._freshness.ttl):
            return None
        peers = self._router.lookup(key, limit=PEERS, max_age=self._freshness.ttl)
        return {peer.id async for peer in peers}

    async def _note(self, key: str) -> str | None:
        namespaces = await self._elsewhere(key) if self._elsewhere else ()
        return in_namespaces(namespaces, shared=self._shared) if namespaces else None

    def _since(self, began: float) -> float:
        return round((self._clock() - began) * 1000, 1)


def key_of(text: str) -> str:
    """Return the key under which a digest or a reference is looked up.

    Raises NameInvalid and DigestInvalid, and names the registry that a short name lacks.
    """
    if "/" not in text and _DIGEST.match(text):
        return str(Digest.parse(text))
    reference = Reference.parse(text)
    return str(reference.digest or reference.key)


def _label_of(text: str) -> str | None:
    """Return the label that filters are applied to in a pull; None for a digest alone."""
    if "/" not in text:
        return None
    reference = Reference.parse(text)
    repository = f"{reference.registry}/{reference.repository}"
    return repository if reference.digest else reference.name
