"""The parts of one node, connected with each other.

`parts` makes the parts that depend on settings alone; `node` starts and stops them.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from spegel_py import parts
from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.control_app import create_control_app
from spegel_py.admin.guard import guard_hosts
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.holder_lookup import HolderLookup
from spegel_py.admin.images import LocalImages
from spegel_py.admin.measurer import Measurer
from spegel_py.admin.routes import image_routes, pull_routes, replica_routes
from spegel_py.admin.state import describe
from spegel_py.admin.web.page_sources import PageSources
from spegel_py.admin.web.status_page import StatusPage
from spegel_py.config import Config
from spegel_py.health.health import Health
from spegel_py.health.monitor import Monitor
from spegel_py.image_parts import (
    ReplicaParts,
    describe_store,
    make_cordon_watch,
    make_evacuation,
    make_image_guard,
    make_preheating,
    make_replicas,
    make_signs,
    make_tag_keeper,
)
from spegel_py.inflight.in_flight_sharing import InFlightSharing
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.freshness import Freshness, TagPolicy
from spegel_py.mirror.peer_lists import PeerLists
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.tag_keeper import TagKeeper
from spegel_py.mirror.verification import Verify
from spegel_py.node_name import node_name
from spegel_py.outcomes import ContentSource
from spegel_py.preheat.evacuation import Evacuation
from spegel_py.preheat.preheating import Preheating
from spegel_py.registry.app import create_app
from spegel_py.registry.askers import Door, Doorkeeper
from spegel_py.registry.ingest_reader import IngestReader, expected_size
from spegel_py.registry.list_handler import ListHandler, ListPolicy
from spegel_py.registry.proof_gate import ProofGate
from spegel_py.registry.transfer_limits import TransferLimits
from spegel_py.replicas.cordon_watch import CordonWatch
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.cluster_keys import KeyFile
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.peer_proofs import NodeSecret
from spegel_py.store.base import Ingests, Origins, Store, Watcher
from spegel_py.store.referrers import Referrers
from spegel_py.store.scrub import ScrubbedStore, ScrubbedWatcher
from spegel_py.store.spelled import SpelledStore
from spegel_py.supervision.supervisor import Supervisor
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.tools.basic_auth import Credentials
from spegel_py.tools.runtime_token import TokenFile
from spegel_py.tools.secret_file import secret_faults
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender

if TYPE_CHECKING:
    from spegel_py.registry.image_guard import ImageGuard
    from spegel_py.store.containerd import OtherNamespaces
    from spegel_py.transfer.peer_tls import PeerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """The parts of one node; `node` starts those that listen or run."""

    config: Config
    auth: Credentials | None
    tokens: TokenFile | None
    key_file: KeyFile | None
    tls: PeerTls | None
    metrics: NodeMetrics
    plain_store: Store
    store: ScrubbedStore
    ingests: Ingests | None
    watcher: Watcher
    namespaces: OtherNamespaces | None
    origins: Origins
    replicas: ReplicaParts
    preheating: Preheating
    evacuation: Evacuation
    cordon: CordonWatch | None
    router: Libp2pRouter
    advertiser: Advertiser
    tags: TagKeeper
    health: Health
    monitor: Monitor
    scores: Scores
    upstream: HTTPUpstream
    sharing: InFlightSharing | None
    mirror: Mirror
    supervisor: Supervisor
    pull_log: PullLog
    sender: Sender
    limits: TransferLimits
    measurer: Measurer
    proof_gate: ProofGate | None
    guard: ImageGuard | None

    @classmethod
    async def build(cls, config: Config, stack: AsyncExitStack) -> Assembly:
        """Make all parts. Sockets and threads are closed with the stack."""
        metrics, auth = NodeMetrics(), Credentials.read()
        tokens, key_file = parts.make_tokens(config), parts.make_key_file(config)
        tls = parts.make_peer_tls(config)
        mirror_address = parts.own_mirror(config, auth, tokens)
        rng, verify = random.Random(), Verify(config.verify_blobs)
        store, watcher, origins, replicas = await parts.make_store(config, stack)
        scrubbed = ScrubbedStore(
            store=store,
            # A layout's store hashes a blob before it serves it.
            should_hash=lambda: config.oci_layout is None and verify.selects(rng),
            on_verified=lambda is_right: metrics.mirror.verified(
                ContentSource.LOCAL, is_right=is_right
            ),
        )
        secret = NodeSecret()
        router = parts.make_router(config, metrics, auth, key_file, secret)
        prover = parts.make_prover(config, router, metrics)
        if key_file is not None:
            key_file.changed = router.use_keys
        tracer = await parts.make_tracer(config, stack, instance=router.id)
        deadlines = Deadlines(resolve=config.mirror_resolve_timeout)
        upstream = await stack.enter_async_context(
            HTTPUpstream(
                deadlines=deadlines,
                authorization=auth.header if auth else None,
                prover=prover,
                tls=tls,
            )
        )
        health = parts.make_health(config, deadlines, router, metrics, rng)
        scores, freshness = Scores(health=health, zone=config.zone), Freshness(ttl=config.tag_ttl)
        tags = await make_tag_keeper(config, router, freshness, scores, metrics, scrubbed)
        advertiser = Advertiser(
            watcher=ScrubbedWatcher(watcher=watcher, store=scrubbed),
            router=router,
            changed=metrics.routing.advertised,
            seen=tags.book.record_arrival if config.tag_ttl else None,
        )
        monitor = Monitor(
            health=health,
            upstream=await stack.enter_async_context(parts.make_checks(config, prover, tls)),
            members=router.members,
            metrics=metrics.health,
            timeout=config.health_timeout,
        )
        router.on_change = monitor.wake
        ingests = parts.make_ingests(config, store)
        all_ingests = parts.make_ingests(config, store, of_all=True)
        sharing = parts.make_sharing(config, router, scrubbed, ingests, advertiser, metrics)
        mirror = Mirror(
            router=router,
            upstream=upstream,
            metrics=metrics.mirror,
            deadlines=deadlines,
            scores=scores,
            random=rng,
            peers=config.mirror_resolve_retries,
            verify=verify,
            parallel=parts.make_parallel(config),
            parents=sharing,
            expected=None if all_ingests is None else partial(expected_size, all_ingests),
            tags=tags.book,
        )
        limits = TransferLimits(
            per_peer=config.max_transfers_per_peer,
            overall=config.max_transfers,
            growing=config.share_in_flight_slots,
            metrics=metrics.server,
        )
        cordon = make_cordon_watch(config, rng)
        kept = make_replicas(
            config,
            replicas,
            scrubbed,
            router,
            metrics,
            rng,
            mirror=mirror_address,
            is_busy=lambda: limits.has_foreground or bool(sharing and sharing.counts()),
            signs=make_signs(config, router, health, scrubbed, cordon),
        )
        preheating = make_preheating(
            config,
            replicas,
            scrubbed,
            router,
            metrics,
            rng,
            mirror=mirror_address,
            kept=kept,
            images=parts.make_cri_images(config, store),
        )
        supervisor = parts.make_supervisor(
            config,
            router,
            watcher,
            health,
            metrics,
            not_preheated=preheating.not_ready,
            floor_missed=kept.keeper.floor_missed,
            draining=lambda: kept.draining.state.describe() or {},
            preheat_faults=preheating.faults,
            secret_faults=partial(secret_faults, key_file, tokens, tls),
            tag_conflicts=tags.book.conflicts,
        )
        preheating.jobs.on_action = kept.draining.on_action = supervisor.audit
        kept.keeper.on_action = kept.queue.on_action = supervisor.audit
        kept.draining.signs.disk_faults = supervisor.disk_faults
        return cls(
            config=config,
            auth=auth,
            tokens=tokens,
            key_file=key_file,
            tls=tls,
            metrics=metrics,
            plain_store=store,
            store=scrubbed,
            ingests=ingests,
            watcher=watcher,
            namespaces=parts.make_namespaces(config, store),
            origins=origins,
            replicas=kept,
            preheating=preheating,
            cordon=cordon,
            evacuation=make_evacuation(config, preheating, kept),
            router=router,
            advertiser=advertiser,
            tags=tags,
            health=health,
            monitor=monitor,
            scores=scores,
            upstream=upstream,
            sharing=sharing,
            mirror=mirror,
            supervisor=supervisor,
            pull_log=PullLog(
                metrics=metrics.pulls,
                tracer=tracer,
                node=node_name(config.node_name),
                on_end=kept.heat.count,
            ),
            sender=stack.enter_context(Sender(max_upload_rate=config.max_upload_rate)),
            limits=limits,
            measurer=Measurer(mirror=mirror_address),
            proof_gate=parts.make_proof_gate(config, secret, router, metrics),
            guard=make_image_guard(config, auth, metrics),
        )

    def registry_app(self, door: Door) -> web.Application:
        """Return the registry, as the clients of a port see it."""
        ingest_reader, reach = None, RegistryReach()
        if self.sharing and self.ingests:
            ingest_reader = IngestReader(
                ingests=self.ingests,
                size_of=self.mirror.size_of,
                source_of=self.sharing.parent_of,
                takes_part=self.sharing.takes_part,
            )
        return create_app(
            store=self._spelled_store(),
            sender=self.sender,
            mirror=self.mirror,
            metrics=self.metrics.server,
            ready=self.supervisor.readiness,
            live=self.supervisor.liveness,
            filters=self.config.filters,
            origins=self.origins,
            gate=self.replicas.gate.send,
            freshness=self.tags.book.freshness,
            limits=self.limits,
            pull_log=self.pull_log,
            credentials=self.auth,
            door=door,
            node=node_name(self.config.node_name),
            tokens=self.tokens,
            ingest_reader=ingest_reader,
            default_registry=self.config.default_registry,
            proof_gate=self.proof_gate,
            needs_tls=bool(self.tls and self.tls.is_required),
            reach=reach if self.config.old_tags else None,
            tag_policy=TagPolicy(self.config.tag_policy),
            tag_book=self.tags.book,
            lists=self._list_handler(door, reach),
            guard=self.guard,
        )

    def _list_handler(self, door: Door, reach: RegistryReach) -> ListHandler:
        advertiser, has_tags = self.advertiser, bool(self.config.tag_ttl)
        return ListHandler(
            policy=ListPolicy(self.config.lists),
            tags=lambda: advertiser.tags if has_tags else (),
            referrers=Referrers(store=self.store, held=lambda: advertiser.advertised),
            peers=PeerLists(
                router=self.router,
                upstream=self.upstream,
                deadlines=Deadlines(resolve=self.config.mirror_resolve_timeout),
                scores=self.scores,
            ),
            reach=reach,
            filters=self.config.filters,
            default_registry=self.config.default_registry,
            doorkeeper=Doorkeeper(
                door=door,
                node=node_name(self.config.node_name),
                tokens=self.tokens,
                needs_proof=self.proof_gate is not None and self.proof_gate.is_required,
                needs_tls=bool(self.tls and self.tls.is_required),
            ),
            guard=self.guard,
        )

    def admin_app(self) -> web.Application:
        """Return everything that is served on the metrics port."""
        config, has_page = self.config, self.config.debug_web_enabled
        images = LocalImages(
            store=self.store,
            holders=HolderCache(router=self.router),
            tags=lambda: self.advertiser.tags,
            held=lambda: self.advertiser.advertised,
        )
        holder_lookup = HolderLookup(
            store=self._spelled_store(),
            router=self.router,
            health=self.health.state,
            freshness=self.tags.book.freshness,
            filters=config.filters,
            origins=self.origins,
            elsewhere=self.namespaces.holding if self.namespaces else None,
            shared=parts.shared_namespaces(config),
        )
        routes = [
            *pull_routes(pull_log=self.pull_log, holder_lookup=holder_lookup, images=images),
            *image_routes(images=images, measurer=self.measurer if has_page else None),
            *replica_routes(self.replicas.keeper.describe),
        ]
        hosts = [*config.debug_hosts, socket.gethostname(), node_name(config.node_name)]
        app = create_admin_app(
            render=self.metrics.render,
            state=self.state,
            routes=routes,
            guard=[guard_hosts(hosts)],
        )
        if has_page:
            sources = PageSources(
                state=self.state,
                history=self.supervisor.history,
                giving=lambda: self.limits.under_way,
                sent=lambda: self.metrics.server.sent_bytes,
                pull_log=self.pull_log,
                images=images,
                measurer=self.measurer,
                in_flight=self.sharing.views if self.sharing else None,
                replicas=self.replicas.keeper.describe,
                jobs=self.preheating.jobs.running,
            )
            StatusPage(sources=sources).install(app)
        return app

    def control_app(self) -> web.Application:
        """Return what is served on the control socket."""
        return create_control_app(
            preheat=self.preheating.jobs,
            evacuation=self.evacuation,
            listed=self.preheating.describe_list,
        )

    async def state(self) -> Mapping[str, object]:
        """Return the node's state, as `/debug/state` serves it."""
        return describe(
            node_id=self.router.id,
            zone=self.config.zone,
            not_ready=self.supervisor.not_ready(),
            store=await describe_store(self.config, self.watcher, self.namespaces),
            settings=self.config.shown(),
            members=self.router.members(),
            advertised=self.advertiser.advertised,
            supervision=self.supervisor.describe(),
            health=self.health.state,
            pulls=self.metrics.pulls.summary(),
            in_flight=self.sharing.describe() if self.sharing else None,
            replicas=self.replicas.keeper.limits(),
            draining=self.replicas.draining.state.describe(),
            leaving=self.replicas.draining.state.draining_peers,
            cluster_keys=parts.keys_state(self.config, self.key_file, self.router),
            peer_tls=self.tls.describe() if self.tls else None,
            peer_proofs=self.config.peer_proofs,
            tag_trust=self.tags.book.describe(),
            runtime_token=self.tokens.describe() if self.tokens else None,
            private_images=self.guard.describe() if self.guard else None,
            preheat=self.preheating.describe(self.config.control_path),
        )

    def watch_gauges(self) -> None:
        """Let the metrics read their gauges from the parts at each scrape."""
        metrics, router, advertiser = self.metrics, self.router, self.advertiser
        watcher, quarantine = self.watcher, self.scores.quarantine
        containerd = parts.containerd_watcher(self.config, watcher)
        by_digest = containerd.images_by_digest if containerd else tuple
        if self.sharing:
            metrics.in_flight.watch(self.sharing.counts)
        metrics.health.watch(self.health.counts)
        metrics.replicas.watch(lambda: len(self.replicas.keeper.held()))
        metrics.mirror.watch(quarantined=lambda: float(quarantine.count(time.monotonic())))
        metrics.routing.watch(
            connected=router.connected,
            records_held=lambda: float(router.records()),
            records=router.records_by_kind,
            peers=router.protocols,
            members=router.members_by_kind,
            tls_members=router.tls_members,
            images=lambda: [*advertiser.tags, *by_digest()],
        )
        if tls := self.tls:
            metrics.watch_tls(lambda: tls.content.expires)
        metrics.watch_queues(
            {
                "advertise": lambda: float(advertiser.to_advertise),
                "send": lambda: float(self.sender.load),
                "relay": lambda: float(self.upstream.load),
            }
        )

    def _spelled_store(self) -> SpelledStore:
        return SpelledStore(store=self.store, spellings=self.advertiser.spellings)
