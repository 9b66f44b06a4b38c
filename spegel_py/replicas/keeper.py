"""Scans this node's images and carries out the plan: holds, renews and releases replicas.

The plan is pure (`replicas.replica_plan`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import structlog

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.replicas.action_record import OnAction, action_record, ignore_action
from spegel_py.replicas.disk_room import DiskRoom
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.found_image import FoundImage, bytes_alone, is_preheated, tags
from spegel_py.replicas.image_heat import ImageHeat
from spegel_py.replicas.image_state_reader import ImageStateReader
from spegel_py.replicas.keep_plan import KeeperView, target
from spegel_py.replicas.keep_queue import KeeperSnapshot, KeepQueue
from spegel_py.replicas.keep_requester import KeepRequester
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.replica_listing import listed_images
from spegel_py.replicas.replica_plan import (
    Action,
    Decision,
    ImageState,
    Why,
    missing_replicas,
    plan,
)
from spegel_py.replicas.replica_rules import (
    LIFE,
    SCAN,
    ReplicaRules,
)
from spegel_py.replicas.zone_spread import target_of
from spegel_py.routing.base import Router
from spegel_py.store.base import (
    Replica,
    ReplicaReason,
    Replicas,
    Store,
)
from spegel_py.telemetry.logging import FaultLog

log = structlog.get_logger(__name__)

_REASONS = {Why.HEAT: ReplicaReason.HEAT}
"""The purpose of a replica that is made for a cause, if that is not the floor."""


class ReplicaKeeper:
    """Keeps replicas of this node's images, as the rules say.

    Args:
        connected: returns the ids of the connected peers.
        disk: measures the content's file system.
        filters: the images that may be replicated.
        requester: asks other nodes to keep images; None to keep them only where they are.
        queue: answers such requests of other nodes.
        heat: how often images are pulled.
        drain: whether this node drains, and which peers do. A change makes the next scan begin.
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
        disk: DiskRoom,
        rules: ReplicaRules,
        filters: Filters,
        metrics: ReplicaMetrics,
        rng: random.Random,
        requester: KeepRequester | None = None,
        queue: KeepQueue | None = None,
        drain: DrainState | None = None,
        heat: ImageHeat | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._replicas = replicas
        self._disk = disk
        self._rules = rules
        self._metrics = metrics
        self._rng = rng
        self._requester = requester
        self._queue = queue
        self._drain = drain or DrainState()
        self._heat = heat or ImageHeat(clock=monotonic)
        self._clock = clock
        self._reader = ImageStateReader(
            own=own,
            replicas=replicas,
            store=store,
            router=router,
            connected=connected,
            rules=rules,
            filters=filters,
            rng=rng,
            drain=self._drain,
            heat=self._heat,
            clock=clock,
            monotonic=monotonic,
        )
        self._since: dict[Digest, float] = {}
        self._faults = FaultLog(log)
        self._shown: Mapping[Digest, ImageState] = {}
        self.on_action: OnAction = ignore_action
        """Is called with the record of each replica that was held or released."""

    def __repr__(self) -> str:
        return f"<ReplicaKeeper {self._rules!r} {self._replicas!r}>"

    def held(self) -> Mapping[Digest, Replica]:
        """Return this node's replicas by their manifests' digests."""
        return self._replicas.held()

    def describe(self) -> Mapping[str, object]:
        """Return the floor and the images of the last scan, as `/debug/replicas` serves them."""
        images = listed_images(
            self._shown,
            view=self._view(),
            rules=self._rules,
            held=self._replicas.held(),
            since=self._since,
        )
        taking = self._queue.describe() if self._queue is not None else []
        return {
            "floor": self._rules.floor,
            "ceiling": max(self._rules.floor, self._rules.ceiling),
            "draining": self._drain.describe(),
            "images": images,
            "taking": taking,
        }

    def limits(self) -> Mapping[str, object] | None:
        """Return what limits replicas, as `/debug/state` serves it; None if they are off.

        `nodes` is the number of nodes that keep replicas, `disk` the share of the content's disk
        that was in use at the last scan.
        """
        if not self._rules.floor or self._requester is None:
            return None
        nodes = len(self._requester.view().keepers) + 1
        return {"floor": self._rules.floor, "nodes": nodes, "disk": round(self._disk.share, 3)}

    def floor_missed(self) -> Mapping[str, str]:
        """Return the images below their floor for long that this node speaks for, with reasons."""
        missed = self._requester.missed if self._requester is not None else ()
        return {one.name: str(one) for one in missed}

    async def run(self) -> None:
        """Scan until cancelled. While the store is away, nothing is done.

        With a floor of 0 it ends once the replicas of an earlier run are released.
        """
        is_over = False
        while not is_over:
            with suppress(TimeoutError):
                async with asyncio.timeout(SCAN * self._rng.uniform(0.8, 1.2)):
                    await self._drain.changed.wait()
            self._drain.changed.clear()
            try:
                await self.scan()
                is_over = self._rules.floor == 0 and all(
                    map(is_preheated, self._replicas.held().values())
                )
            except StoreUnavailable:
                continue  # the watcher has logged it
            except Exception as error:  # noqa: BLE001 - a fault here must not end the node
                self._faults.log_once("replicas were not scanned", error)

    async def scan(self) -> list[Decision]:
        """Look at all images once, and carry out what the plan decides; return that.

        Raises StoreUnavailable.
        """
        found = await self._reader.images()
        alone = bytes_alone(found, self._replicas.held())
        view = self._view()
        states = await self._reader.states(found, alone, view)
        self._disk.alone = sum(alone.values())
        disk = await self._disk.use()
        decisions = [
            decision
            for decision in plan(
                states.values(), own=self._own, rules=self._rules, disk=disk, zones=view.zones
            )
            if not await self._is_needed_elsewhere(decision, states[decision.manifest], view)
        ]
        for decision in decisions:
            await self._carry_out(decision, found)
        self._record_scan(found, states, view)
        if self._queue is not None:
            self._queue.snapshot = KeeperSnapshot(
                held=frozenset(self._replicas.held()),
                used=dict(self._reader.used),
                heat={manifest: state.heat for manifest, state in self._shown.items()},
                disk=disk,
            )
        if self._requester is not None and self._rules.floor:
            await self._requester.ask(self._shown)
        return decisions

    async def _is_needed_elsewhere(
        self, decision: Decision, image: ImageState, view: KeeperView
    ) -> bool:
        """Return True if other nodes know why a replica should not be released."""
        match decision.why:
            case Why.UNWANTED:
                return await self._is_used_elsewhere(image)
            case Why.SURPLUS:
                return await self._is_hot_elsewhere(image, view)
        return False

    async def _is_hot_elsewhere(self, image: ImageState, view: KeeperView) -> bool:
        """Return True if other nodes have seen so many pulls that there are not too many replicas.

        This node then takes over their heat, so that it does not release an image that another node
        asks it to take again.
        """
        if self._requester is None or not self._has_ceiling:
            return False
        self._heat.learn(image.manifest, await self._requester.mean_heat(image))
        extra = self._heat.worth(image.manifest)
        wanted = target_of(self._rules, view.zones, extra=extra).copies
        return len(image.kept(self._own)) <= wanted

    async def _is_used_elsewhere(self, image: ImageState) -> bool:
        """Return True if a runtime of another node has had the image lately, or may have had it."""
        if self._requester is None:
            return False
        latest = await self._requester.last_used(image)
        if latest is None:
            return True
        now = self._clock()
        if self._rules.keep is None or now - latest > self._rules.keep:
            return False
        self._reader.used[image.manifest] = min(now, latest)
        return True

    async def _carry_out(self, decision: Decision, found: Mapping[Digest, FoundImage]) -> None:
        manifest = decision.manifest
        match decision.action:
            case Action.HOLD | Action.RENEW:
                await self._hold(manifest, found[manifest], decision)
            case Action.RELEASE:
                freed = await self._replicas.release(manifest)
                self._reader.record_renewal(manifest)
                self._metrics.released(decision.why)
                log.info("replica released", manifest=str(manifest), why=decision.why, freed=freed)
                self._record_action("release", manifest, decision, freed)

    async def _hold(self, manifest: Digest, one: FoundImage, decision: Decision) -> None:
        wall = self._clock()
        before = self._replicas.held().get(manifest)
        names = tags(one.names) if one.is_pulled or before is None else before.names
        replica = Replica(
            image=one.image,
            names=names,
            reason=before.reason if before else _REASONS.get(decision.why, ReplicaReason.FLOOR),
            used=self._reader.used.get(manifest, wall),
            expires=round(wall + LIFE),
        )
        try:
            await self._replicas.hold(replica)
        except ContentNotFound as error:  # a collection was faster
            log.info("replica is incomplete", manifest=str(manifest), error=str(error))
            self._metrics.held(replica.reason, is_done=False)
            return
        self._reader.record_renewal(manifest)
        if decision.action is Action.HOLD:
            self._metrics.held(replica.reason, is_done=True)
            log.info(
                "replica held",
                manifest=str(manifest),
                names=sorted(names),
                bytes=one.image.size,
                why=decision.why,
            )
            self._record_action("hold", manifest, decision, one.image.size)

    def _record_action(self, action: str, manifest: Digest, decision: Decision, count: int) -> None:
        self.on_action(
            action_record(
                action, manifest, at=self._clock(), why=decision.why, outcome="done", count=count
            )
        )

    def _record_scan(
        self,
        found: Mapping[Digest, FoundImage],
        states: Mapping[Digest, ImageState],
        view: KeeperView,
    ) -> None:
        """Show the images and their cost, as they are after the plan was carried out."""
        held = self._replicas.held()
        self._shown = {
            manifest: dataclasses.replace(state, is_held=manifest in held)
            for manifest, state in states.items()
            if state.is_pulled or manifest in held
        }
        self._heat.copies = {one: len(state.holders) + 1 for one, state in self._shown.items()}
        self._heat.keep(self._shown)
        now = self._clock()
        self._since = {manifest: self._since.get(manifest, now) for manifest in held}
        self._reader.keep(self._shown)
        alone = sum(bytes_alone(found, held).values())
        total = {blob for one in held.values() for blob in one.image.blobs}
        low = sum(self._counts_as_low(state, view) for state in self._shown.values())
        hot = sum(state.extra > 0 for state in self._shown.values() if self._has_ceiling)
        size = sum(blob.size for blob in total)
        self._metrics.scanned(alone=alone, total=size, low=low, hot=hot)

    def _counts_as_low(self, state: ImageState, view: KeeperView) -> bool:
        """Return True for an image below the floor, at the first of the nodes that have it."""
        wanted = target_of(self._rules, view.zones)
        if self._requester is not None:
            wanted = target(self._rules, view)
        return (
            not state.is_excluded
            and missing_replicas(state, wanted, own=self._own, zones=view.zones) > 0
            and self._own == min({self._own} | state.holders)
        )

    @property
    def _has_ceiling(self) -> bool:
        """True if images that are pulled often get more replicas than the floor."""
        return self._rules.ceiling > self._rules.floor > 0

    def _view(self) -> KeeperView:
        """Return the other nodes; none where no node is asked."""
        if self._requester is None:
            return KeeperView(own=self._own, keepers=frozenset())
        return self._requester.view()
