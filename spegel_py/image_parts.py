"""The parts of a node that keep, fetch and guard images, and the part that keeps tags."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from spegel_py import parts
from spegel_py.admin.store_state import containerd_state, layout_state
from spegel_py.config import Config
from spegel_py.errors import ConfigError, StoreUnavailable
from spegel_py.health.health import Health
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.tag_keeper import TagKeeper
from spegel_py.mirror.tag_trust import TagAuthors, TagsFromPeers
from spegel_py.node_name import node_name
from spegel_py.preheat.evacuation import Evacuation
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.preheat_messages import is_preheat
from spegel_py.preheat.preheating import Preheating
from spegel_py.preheat.registry_lookup import plain_registries
from spegel_py.preheat.runtime_pulls import RuntimePulls
from spegel_py.preheat.sole_copies import SoleCopies
from spegel_py.replicas.cordon_watch import CordonWatch, NodeAPI
from spegel_py.replicas.disk_room import DiskRoom
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.draining import Draining, DrainSigns
from spegel_py.replicas.image_heat import ImageHeat
from spegel_py.replicas.keep_queue import KeepQueue
from spegel_py.replicas.keep_requester import KeepRequester
from spegel_py.replicas.keeper import ReplicaKeeper
from spegel_py.replicas.replica_rules import UNKNOWN_DISK, ReplicaRules
from spegel_py.replicas.take_budget import TakeBudget
from spegel_py.replicas.taker import ImageTaker
from spegel_py.replicas.yield_gate import YieldGate
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.store.base import Replicas, Store, Watcher
from spegel_py.store.scrub import ScrubbedStore
from spegel_py.tools.addresses import MirrorAddress
from spegel_py.tools.basic_auth import BASIC_AUTH_DIR, Credentials

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard
    from spegel_py.store.containerd import CriImages, OtherNamespaces


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaParts:
    """The parts that keep images.

    `draining` decides whether this node drains. `taker` and `queue` take images from other nodes,
    `keeper` looks after those that are here, `gate` lets the pulls of runtimes go first, and
    `heat` counts them. All that takes images shares the `budget`.
    """

    draining: Draining
    keeper: ReplicaKeeper
    taker: ImageTaker
    queue: KeepQueue
    gate: YieldGate
    heat: ImageHeat
    budget: TakeBudget


def make_cordon_watch(config: Config, rng: random.Random) -> CordonWatch | None:
    """Return the watch of this machine's cordon; None if it is switched off."""
    if not config.evacuate_cordoned:
        return None
    return CordonWatch(api=NodeAPI.of_cluster(os.environ, config.node_name), rng=rng)


def make_signs(
    config: Config,
    router: Libp2pRouter,
    health: Health,
    scrubbed: ScrubbedStore,
    cordon: CordonWatch | None,
) -> DrainSigns:
    """Return the signs by which a node drains.

    Without a floor nodes keep no images, and none gives its own away unasked.
    """
    return DrainSigns(
        is_automatic=config.replica_floor > 0,
        connected=router.connected,
        predicted=health.declining,
        unhealthy=lambda: health.reasons(time.monotonic()),
        damaged=lambda: scrubbed.damaged,
        cordoned=lambda: cordon.reason if cordon else "",
    )


def make_replicas(
    config: Config,
    replicas: Replicas,
    store: Store,
    router: Libp2pRouter,
    metrics: NodeMetrics,
    rng: random.Random,
    *,
    mirror: MirrorAddress,
    is_busy: Callable[[], bool],
    signs: DrainSigns,
) -> ReplicaParts:
    """Return the parts that keep images. With a floor of 0 they release those of an earlier run."""
    rules = ReplicaRules(
        floor=config.replica_floor,
        ceiling=config.replica_ceiling,
        keep=config.replica_keep or None,
        max_disk=config.replica_max_disk / 100,
        patterns=config.replicate_images,
    )
    disk = DiskRoom(content=config.oci_layout or config.containerd_content_path, rules=rules)
    drain = DrainState()
    draining = Draining(
        state=drain,
        router=router,
        requests=router.keep_requests,
        signs=signs,
        folder=config.data_dir,
        metrics=metrics.replicas,
    )
    gate = YieldGate(is_busy=is_busy, waited=metrics.replicas.yielded)
    budget = TakeBudget(rate=config.replica_rate)
    taker = ImageTaker(
        replicas=replicas,
        mirror=mirror,
        budget=budget,
        room=disk.left,
        gate=gate.take,
    )
    heat = ImageHeat()
    queue = KeepQueue(
        taker=taker,
        rules=rules,
        filters=config.filters,
        metrics=metrics.replicas,
        drain=drain,
        heat=heat,
    )
    queue.on_sick = draining.on_sick
    router.keep_requests.set_handler(queue.handle)
    requester = KeepRequester(
        requests=router.keep_requests,
        floors=router.floors,
        connected=router.connected,
        zones=router.zones,
        zone=config.zone,
        rules=rules,
        metrics=metrics.replicas,
        drain=drain,
    )
    keeper = ReplicaKeeper(
        own=router.id,
        replicas=replicas,
        store=store,
        router=router,
        connected=router.connected,
        disk=disk,
        rules=rules,
        filters=config.filters,
        metrics=metrics.replicas,
        rng=rng,
        requester=requester,
        queue=queue,
        drain=drain,
        heat=heat,
    )
    return ReplicaParts(
        draining=draining,
        keeper=keeper,
        taker=taker,
        queue=queue,
        gate=gate,
        heat=heat,
        budget=budget,
    )


def make_preheating(
    config: Config,
    replicas: Replicas,
    store: Store,
    router: Libp2pRouter,
    metrics: NodeMetrics,
    rng: random.Random,
    *,
    mirror: MirrorAddress,
    kept: ReplicaParts,
    images: CriImages | None,
) -> Preheating:
    """Return the pre-heating of this node.

    An image that this node's user or list wants may take more of the disk than replicas, but not
    what the kubelet needs. Images that other nodes ask for share the room of replicas. Messages
    about pre-heating come over the protocol of replicas. `images` are those of the CRI, if there is
    one.
    """
    content = config.oci_layout or config.containerd_content_path
    disk = DiskRoom(content=content, rules=ReplicaRules(max_disk=1.0))
    of_peers = ReplicaRules(max_disk=config.replica_max_disk / 100)
    peer_disk = DiskRoom(content=content, rules=of_peers)

    async def left(of: DiskRoom) -> int:
        # containerd 1.7 makes the folder with the first pull, which this may be.
        with suppress(StoreUnavailable):
            return await of.left()
        return UNKNOWN_DISK.total

    async def peer_room() -> int:
        peer_disk.alone = sum(one.image.size for one in made.local.kept)
        return await left(peer_disk)

    make_taker = partial(
        ImageTaker, replicas=replicas, mirror=mirror, budget=kept.budget, gate=kept.gate.take
    )
    made = Preheating(
        own=KnownNode(router.id, "", node_name(config.node_name), config.zone),
        members=router.members,
        replicas=replicas,
        taker=make_taker(room=partial(left, disk)),
        peer_taker=make_taker(room=peer_room),
        runtime=RuntimePulls(images),
        sole_copies=SoleCopies(
            replicas=replicas,
            store=store,
            router=router,
            filters=config.filters,
            drain=kept.draining.state,
        ),
        requests=router.keep_requests,
        is_open=config.preheat_from_peers,
        disk=disk,
        drain=kept.draining.state,
        mirror=mirror,
        filters=config.filters,
        floor=config.replica_floor,
        credentials=config.registry_credentials,
        plain=plain_registries(config.registries),
        folder=config.data_dir,
        list_path=config.preheat_file,
        longest=config.ready_when_preheated,
        metrics=metrics.preheat,
        rng=rng,
    )

    def handle(peer: str, raw: bytes) -> bytes:
        return made.responder.handle(peer, raw) if is_preheat(raw) else kept.queue.handle(peer, raw)

    router.keep_requests.set_handler(handle)
    return made


def make_evacuation(config: Config, preheating: Preheating, kept: ReplicaParts) -> Evacuation:
    """Return the evacuation of this node."""
    return Evacuation(
        jobs=preheating.jobs,
        draining=kept.draining,
        keep=config.replica_keep or None,
        is_at_stop=config.evacuate_on_stop == "sole",
    )


def make_image_guard(
    config: Config, auth: Credentials | None, metrics: NodeMetrics
) -> ImageGuard | None:
    """Return the guard of private images; None where it is switched off. Raises ConfigError."""
    if config.private_images == "off":
        return None
    if auth is not None:
        raise ConfigError(
            f"--private-images guard and the password in {BASIC_AUTH_DIR} need the same header: "
            "leave the password out, since --runtime-token and --peer-proofs stand for it"
        )
    from spegel_py.registry.access_check import AccessCheck
    from spegel_py.registry.image_guard import ImageGuard
    from spegel_py.registry.private_rules import PublicImages, WhenDown
    from spegel_py.registry.verdict_memory import VerdictMemory

    return ImageGuard(
        check=AccessCheck(
            hosts=config.containerd_registry_config_path,
            listed=config.listed_registries,
            plain=plain_registries(config.mirrored_registries),
        ),
        memory=VerdictMemory(config.data_dir),
        public=PublicImages(config.public_registries),
        when_down=WhenDown(config.private_when_down),
        counted=metrics.server.private_verdict,
    )


async def describe_store(
    config: Config, watcher: Watcher, namespaces: OtherNamespaces | None
) -> Mapping[str, object]:
    """Return the state of the store as JSON."""
    containerd = parts.containerd_watcher(config, watcher)
    if namespaces is None or containerd is None:
        return layout_state(config.oci_layout)
    found, others = containerd.describe(), await namespaces.counts()
    shared = parts.shared_namespaces(config)
    return containerd_state(found, shared=shared, others=others, now=time.monotonic())


async def make_tag_keeper(
    config: Config,
    router: Libp2pRouter,
    freshness: Freshness,
    scores: Scores,
    metrics: NodeMetrics,
    store: Store,
) -> TagKeeper:
    """Return the book of tags, with the origins of the earlier run, in its keeper."""
    book = TagBook(
        own_id=router.id,
        sign=router.sign,
        authors=TagAuthors(
            own_id=router.id,
            connected=router.connected,
            keyed=router.keyed if config.has_cluster_keys else None,
            is_quarantined=scores.quarantine.holds,
            started=time.monotonic(),
        ),
        freshness=freshness,
        rule=TagsFromPeers(config.tag_rule),
        witnesses=config.tag_witnesses,
        counted=metrics.mirror.judged_tag,
    )
    keeper = TagKeeper(book=book, store=store, folder=config.data_dir)
    await keeper.load()
    return keeper
