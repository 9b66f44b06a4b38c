"""Reads the state of this node's images: from its store, and from the router those of other nodes.

A node with an image announces its manifest's digest, and a node with a replica announces one key
more.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection, Mapping

from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import replica_key
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.found_image import FoundImage, is_preheated, tags
from spegel_py.replicas.image_heat import ImageHeat
from spegel_py.replicas.keep_plan import KeeperView
from spegel_py.replicas.replica_counts import ReplicaCounts
from spegel_py.replicas.replica_plan import ImageState, missing_replicas
from spegel_py.replicas.replica_rules import LIFE, RENEWAL, RENEWAL_JITTER, SCAN, ReplicaRules
from spegel_py.replicas.zone_spread import target_of
from spegel_py.routing.base import Router
from spegel_py.store.base import PulledImage, Replica, Replicas, Store
from spegel_py.store.walker import Walker

MAX_HOLDERS = 64
"""Other nodes of one image that are looked up. The ranking needs the same nodes everywhere only in
clusters where all records are at all nodes, and those are small."""


class ImageStateReader:
    """Reads the images of this node, and the nodes that have them.

    Args:
        connected: returns the ids of the connected peers.
        filters: the images that may be replicated.
        drain: whether this node drains, and which peers do.
        heat: how often images are pulled.
        clock: Unix time.
    """

    def __init__(
        self,
        *,
        own: str,
        replicas: Replicas,
        store: Store,
        router: Router,
        connected: Callable[[], Collection[str]],
        rules: ReplicaRules,
        filters: Filters,
        rng: random.Random,
        drain: DrainState,
        heat: ImageHeat,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._own = own
        self._replicas = replicas
        self._store = store
        self._router = router
        self._connected = connected
        self._rules = rules
        self._filters = filters
        self._rng = rng
        self._drain = drain
        self._heat = heat
        self._clock = clock
        self._monotonic = monotonic
        self._walker = Walker(open=store.open)
        self._counts = ReplicaCounts()
        self._renewal: dict[Digest, float] = {}
        self.used: dict[Digest, float] = {}
        """The Unix times at which a runtime was last known to have each image."""

    def __repr__(self) -> str:
        return f"<ImageStateReader {self._counts!r}>"

    def record_renewal(self, manifest: Digest) -> None:
        """Record that a replica was held anew, or released: its next renewal is not set yet."""
        self._renewal.pop(manifest, None)

    def keep(self, manifests: Collection[Digest]) -> None:
        """Forget when all other images were used."""
        for manifest in self.used.keys() - set(manifests):
            del self.used[manifest]

    async def images(self) -> dict[Digest, FoundImage]:
        """Return this node's complete images, with those that only replicas keep.

        With a floor of 0 these are the replicas of an earlier run alone, as the store has them.
        """
        if self._rules.floor == 0:
            await self._replicas.load()
        found = {
            manifest: FoundImage(replica.image)
            for manifest, replica in self._replicas.held().items()
        }
        if self._rules.floor == 0:
            return found
        roots: dict[Digest, list[PulledImage]] = {}
        for pulled in await self._replicas.pulled():
            roots.setdefault(pulled.root.digest, []).append(pulled)
        for root, names in roots.items():
            images = await self._walker.images(Child(root, 0, ""), self._store.stat)
            for manifest, image in images.items():
                one = found.setdefault(manifest, FoundImage(image))
                one.is_pulled = True
                one.names |= {each.name: each.pulled for each in names}
        self._walker.keep({blob.digest for one in found.values() for blob in one.image.blobs})
        return found

    async def states(
        self,
        found: Mapping[Digest, FoundImage],
        alone: Mapping[Digest, int],
        view: KeeperView,
    ) -> dict[Digest, ImageState]:
        """Return the states of the images.

        Args:
            alone: the bytes that only a replica of each image keeps.
            view: the other nodes.
        """
        now, wall = self._monotonic(), self._clock()
        held = self._replicas.held()
        leaving, is_leaving = self._drain.leaving_peers, self._drain.is_draining
        self._counts.keep(found)
        states = {}
        for manifest, one in found.items():
            replica = held.get(manifest)
            if one.is_pulled:
                self.used[manifest] = wall
            used = self.used.get(manifest, replica.used if replica else wall)
            # The connected nodes are read after the lookup: a node that is lost in between would
            # seem to have released its replicas otherwise.
            seen = await self._lookup(replica_key(manifest))
            replicas = self._counts.update(
                manifest,
                seen,
                connected=frozenset(self._connected()),
                now=now,
                is_held=replica is not None and not is_leaving,
                leaving=leaving,
            )
            names = {**(replica.names if replica else {}), **one.names}
            state = ImageState(
                manifest=manifest,
                names=tuple(sorted(names)),
                pulled=names,
                root=one.image.root.digest,
                size=one.image.size,
                alone=alone.get(manifest, 0),
                is_pulled=one.is_pulled,
                is_held=replica is not None,
                is_preheated=is_preheated(replica),
                is_excluded=self._is_excluded(one, replica),
                is_leaving=is_leaving,
                idle=max(0.0, wall - used),
                renewal_in=self._renewal_in(manifest, one, replica, wall),
                holders=await self._lookup(str(manifest)) - leaving,
                replicas=replicas,
                heat=self._heat.of(manifest),
                extra=self._heat.worth(manifest),
            )
            states[manifest] = self._lasting(state, view, now)
        return states

    def _lasting(self, state: ImageState, view: KeeperView, now: float) -> ImageState:
        """Return a state with the times for which it has had too few or too many replicas."""
        manifest, counts, zones = state.manifest, self._counts, view.zones
        floor = target_of(self._rules, zones)
        is_missing = missing_replicas(state, floor, own=self._own, zones=zones) > 0
        wanted = target_of(self._rules, zones, extra=state.extra)
        has_surplus = len(state.kept(self._own)) > wanted.copies
        return dataclasses.replace(
            state,
            missing_for=counts.missing_for(manifest, is_missing=is_missing, now=now),
            surplus_for=counts.surplus_for(manifest, has_surplus=has_surplus, now=now),
        )

    async def _lookup(self, key: str) -> frozenset[str]:
        return frozenset([peer.id async for peer in self._router.lookup(key, limit=MAX_HOLDERS)])

    def _is_excluded(self, one: FoundImage, replica: Replica | None) -> bool:
        """Return True if none of an image's names may be replicated."""
        names = [*one.names, *(replica.names if replica else ())]
        return bool(names) and not any(
            self._rules.selects(name) and not self._filters.exclude(name) for name in names
        )

    def _renewal_in(
        self, manifest: Digest, one: FoundImage, replica: Replica | None, wall: float
    ) -> float:
        """Return the seconds until a replica is renewed.

        It is renewed at once if the runtime has just removed its image, so that the time of its
        last use outlives a restart, or if a tag moved.
        """
        if replica is None:
            return 0.0
        if not one.is_pulled and self.used.get(manifest, 0.0) > replica.used + SCAN:
            return 0.0
        if one.is_pulled and tags(one.names).keys() - replica.names.keys():
            return 0.0
        jitter = self._renewal.setdefault(manifest, self._rng.uniform(-1, 1) * RENEWAL_JITTER)
        return replica.expires - LIFE + RENEWAL + jitter - wall
