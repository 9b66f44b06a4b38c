"""The composition root: builds one node's parts from its Config and owns their lifetimes.

Order matters at both ends. HTTP comes up first, so that local content is served while peers are still being found; at
the end the router leaves first, so that peers stop asking before transfers under way are drained.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog

from spegel_py import __version__, parts
from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.guard import guard_hosts
from spegel_py.admin.holder_cache import HolderCache
from spegel_py.admin.holder_lookup import HolderLookup
from spegel_py.admin.images import LocalImages
from spegel_py.admin.measurer import Measurer
from spegel_py.admin.routes import image_routes, pull_routes
from spegel_py.admin.state import describe
from spegel_py.admin.web.page import PageSources
from spegel_py.admin.web.status_page import StatusPage
from spegel_py.config import Config
from spegel_py.descriptors import raise_limit
from spegel_py.errors import ConfigError
from spegel_py.health.health import Health
from spegel_py.health.monitor import Monitor
from spegel_py.inflight.in_flight_sharing import InFlightSharing
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.verification import Verify
from spegel_py.node_name import node_name
from spegel_py.outcomes import ContentSource
from spegel_py.registry.app import create_app
from spegel_py.registry.limits import Limits
from spegel_py.registry.room import Room
from spegel_py.registry.server import DRAIN, serve
from spegel_py.registry.underway import Underway, expected_size
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.libp2p.bootstrap import id_app
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.store.containerd import ContainerdWatcher
from spegel_py.store.scrub import ScrubbedStore, ScrubbedWatcher
from spegel_py.store.spelled import SpelledStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.tools.basic_auth import Credentials
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender

log = structlog.get_logger(__name__)

ASIDE_DRAIN = 1.0
"""Seconds that answers on the metrics port get at the end: nobody's pull depends on them."""


async def run(config: Config) -> None:
    """Run a node until SIGTERM or SIGINT; a second signal ends it at once. Raises ConfigError if it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with running(config):
        await stop.wait()
    log.info("stopped")


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Libp2pRouter]:
    """Run a node while the block lasts."""
    metrics = NodeMetrics()
    descriptors = raise_limit()
    room, aside_room = Room.of_registry(descriptors), Room.of_metrics(descriptors)
    auth = Credentials.read()
    async with AsyncExitStack() as stack:
        rng, verify = random.Random(), Verify(config.verify_blobs)
        store, watcher, origins = await parts.make_store(config, stack)
        scrubbed = ScrubbedStore(
            store=store,
            should_hash=lambda: (
                config.oci_layout is None and verify.selects(rng)
            ),  # a layout's store hashes first
            on_verified=lambda is_right: metrics.mirror.verified(
                ContentSource.LOCAL, is_right=is_right
            ),
        )
        router = parts.make_router(config, metrics, auth)
        tracer = await parts.make_tracer(config, stack, instance=router.id)
        deadlines = Deadlines(resolve=config.mirror_resolve_timeout)
        upstream = await stack.enter_async_context(
            HTTPUpstream(deadlines=deadlines, authorization=auth.header if auth else None)
        )
        health = Health(
            rules=parts.make_rules(config, deadlines),
            interval=config.health_interval,
            metrics=metrics.health,
            random=rng,
            left=router.left,
        )
        scores = Scores(health=health)
        monitor = Monitor(
            health=health,
            upstream=await stack.enter_async_context(parts.make_checks(config)),
            members=router.members,
            metrics=metrics.health,
            timeout=config.health_timeout,
        )
        ingests, all_ingests = parts.make_ingests(config), parts.make_ingests(config, of_all=True)
        sharing = None
        if config.share_in_flight:
            sharing = InFlightSharing(
                requests=router.requests,
                ingests=ingests,
                store=scrubbed,
                on_lead=metrics.in_flight.led,
                advertised=lambda: advertiser.advertised,
            )
            metrics.in_flight.watch(sharing.counts)
        mirror = Mirror(
            router=router,
            upstream=upstream,
            metrics=metrics.mirror,
            deadlines=deadlines,
            scores=scores,
            random=rng,
            peers=config.mirror_resolve_retries,
            verify=verify,
            parallel=parts.make_spreading(config),
            parents=sharing,
            expected=None if all_ingests is None else partial(expected_size, all_ingests),
        )
        freshness = Freshness(ttl=config.tag_ttl)
        advertiser = Advertiser(
            watcher=ScrubbedWatcher(watcher=watcher, store=scrubbed),
            router=router,
            changed=metrics.routing.advertised,
            seen=freshness.last_seen if config.tag_ttl else None,
        )
        supervisor = parts.make_supervisor(config, router, watcher, health, metrics)
        pull_log = PullLog(metrics=metrics.pulls, tracer=tracer)
        sender = stack.enter_context(Sender(max_upload_rate=config.max_upload_rate))
        limits = Limits(
            per_peer=config.max_transfers_per_peer,
            overall=config.max_transfers,
            growing=config.share_in_flight_slots,
            metrics=metrics.server,
        )
        spelled = SpelledStore(store=scrubbed, spellings=advertiser.spellings)
        app = create_app(
            store=spelled,
            sender=sender,
            mirror=mirror,
            metrics=metrics.server,
            ready=supervisor.readiness,
            live=supervisor.liveness,
            filters=config.filters,
            origins=origins,
            freshness=freshness,
            limits=limits,
            pull_log=pull_log,
            credentials=auth,
            node=node_name(config.node_name),
            underway=Underway(ingests=ingests, size_of=mirror.size_of, source_of=sharing.parent_of)
            if sharing and ingests
            else None,
        )

        async def state() -> Mapping[str, object]:
            return describe(
                node_id=router.id,
                not_ready=supervisor.not_ready(),
                members=router.members(),
                advertised=advertiser.advertised,
                supervision=supervisor.describe(),
                health=health.state,
                pulls=metrics.pulls.summary(),
                in_flight=sharing.describe() if sharing else None,
            )

        holder_lookup = HolderLookup(store=spelled, router=router, health=health.state)
        images = LocalImages(
            store=scrubbed,
            holders=HolderCache(router=router),
            tags=lambda: advertiser.tags,
            held=lambda: advertiser.advertised,
        )
        measurer = Measurer(mirror=parts.own_mirror(config, auth))
        routes = [
            *pull_routes(pull_log=pull_log, holder_lookup=holder_lookup),
            *image_routes(images=images, measurer=measurer if config.debug_web_enabled else None),
        ]
        by_digest = watcher.images_by_digest if isinstance(watcher, ContainerdWatcher) else tuple
        metrics.health.watch(health.counts)
        metrics.mirror.watch(quarantined=lambda: float(scores.quarantine.count(time.monotonic())))
        metrics.routing.watch(
            connected=router.connected,
            records_held=lambda: float(router.records()),
            records=router.records_by_kind,
            peers=router.protocols,
            images=lambda: [*advertiser.tags, *by_digest()],
        )
        metrics.watch_queues(
            {
                "advertise": lambda: float(advertiser.to_advertise),
                "send": lambda: float(sender.load),
                "relay": lambda: float(upstream.load),
            }
        )
        await _serve(stack, "--registry-addr", app, config.registry_addr, room=room)
        guard = guard_hosts(
            [*config.debug_hosts, socket.gethostname(), node_name(config.node_name)]
        )
        aside = create_admin_app(render=metrics.render, state=state, routes=routes, guard=[guard])
        if config.debug_web_enabled:
            sources = PageSources(
                state=state,
                history=supervisor.history,
                giving=lambda: limits.under_way,
                sent=lambda: metrics.server.sent_bytes,
                pull_log=pull_log,
                images=images,
                measurer=measurer,
                in_flight=sharing.views if sharing else None,
            )
            StatusPage(sources=sources).install(aside)
        await _serve(
            stack, "--metrics-addr", aside, config.metrics_addr, drain=ASIDE_DRAIN, room=aside_room
        )
        await stack.enter_async_context(
            measurer.running()
        )  # ended before its transfer is waited for
        if config.http_bootstrap_addr:
            bootstrap = id_app(router.addresses)
            await _serve(
                stack,
                "--http-bootstrap-addr",
                bootstrap,
                config.http_bootstrap_addr,
                room=aside_room,
            )
        await stack.enter_async_context(router.running())
        if sharing:
            await stack.enter_async_context(sharing.running())
        async with asyncio.TaskGroup() as group:
            advertising = group.create_task(advertiser.run(), name="advertiser")
            log.info(
                "descriptors",
                limit=descriptors,
                connections=room.own + room.overall,
                per_address=room.per_address,
            )
            log.info(
                "node up", version=__version__, registry=config.registry_addr, store=repr(store)
            )
            scrubbing = group.create_task(scrubbed.run(), name="scrub")
            advising = group.create_task(parts.advise(config), name="doctor")
            checking = group.create_task(monitor.run(), name="health")
            supervising = group.create_task(supervisor.run(), name="supervisor")
            yield router
            for task in (advertising, scrubbing, advising, checking, supervising):
                task.cancel()


async def _serve(
    stack: AsyncExitStack, flag: str, app: object, address: str, *, room: Room, drain: float = DRAIN
) -> None:
    try:
        await stack.enter_async_context(serve(app, address, drain=drain, room=room))  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from error
