"""The composition root: builds one node's parts from its Config and owns their lifetimes.

Order matters at both ends. HTTP comes up first, so that local content is served while peers are still being found; at
the end the router leaves first, so that peers stop asking before transfers under way are drained.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from spegel_py import __version__
from spegel_py.config import Config
from spegel_py.credentials import read_credentials
from spegel_py.errors import ConfigError, StoreUnavailable
from spegel_py.host import doctor
from spegel_py.mirror.fetch import Mirror
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.scores import Scores
from spegel_py.mirror.spread import Spreading
from spegel_py.mirror.verify import Verify
from spegel_py.registry.app import create_app, create_metrics_app
from spegel_py.registry.auth import Credentials
from spegel_py.registry.limits import Limits
from spegel_py.registry.server import parse_address, serve
from spegel_py.registry.state import describe
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.libp2p.bootstrap import (
    Bootstrap,
    DnsBootstrap,
    HttpBootstrap,
    NoBootstrap,
    StaticBootstrap,
    id_app,
)
from spegel_py.routing.libp2p.identity import load_or_create
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.service import Settings
from spegel_py.store.base import Store, Watcher
from spegel_py.store.containerd import Client, ContainerdStore, ContainerdWatcher, check_content_path, check_socket
from spegel_py.store.layout import LayoutStore, LayoutWatcher, check_layout
from spegel_py.store.scrub import ScrubbedStore, ScrubbedWatcher
from spegel_py.telemetry.metrics import Metrics
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender

log = structlog.get_logger(__name__)


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
    metrics = Metrics()
    credentials = read_credentials()
    async with AsyncExitStack() as stack:
        rng, verify = random.Random(), Verify(config.verify_blobs)
        store, watcher = await _store(config, stack)
        scrubbed = ScrubbedStore(
            store=store,
            wants=lambda: config.oci_layout is None and verify.wants(rng),  # a layout's store hashes first
            verified=lambda is_right: metrics.verified("local", is_right=is_right),
        )
        router = _router(config, metrics)
        auth = Credentials(username=credentials[0], password=credentials[1]) if credentials else None
        deadlines = Deadlines(resolve=config.mirror_resolve_timeout)
        upstream = await stack.enter_async_context(
            HTTPUpstream(deadlines=deadlines, authorization=auth.header if auth else None)
        )
        scores = Scores()
        mirror = Mirror(
            router=router,
            upstream=upstream,
            metrics=metrics,
            deadlines=deadlines,
            scores=scores,
            random=rng,
            peers=config.mirror_resolve_retries,
            verify=verify,
            spreading=_spreading(config),
        )
        freshness = Freshness(ttl=config.tag_ttl)
        advertiser = Advertiser(
            watcher=ScrubbedWatcher(watcher=watcher, store=scrubbed),
            router=router,
            changed=metrics.advertised,
            seen=freshness.seen if config.tag_ttl else None,
        )
        app = create_app(
            store=scrubbed,
            sender=stack.enter_context(Sender(max_upload_rate=config.max_upload_rate)),
            mirror=mirror,
            metrics=metrics,
            ready=lambda: _not_ready(router),
            filters=config.filters,
            freshness=freshness,
            limits=Limits(per_peer=config.max_transfers_per_peer, overall=config.max_transfers, metrics=metrics),
            credentials=auth,
        )

        async def state() -> Mapping[str, object]:
            return describe(
                node_id=router.id,
                not_ready=await _not_ready(router),
                members=router.members(),
                advertised=advertiser.told,
            )

        metrics.watch(
            connected_peers=lambda: float(len(router.connected())),
            records_held=lambda: float(router.records()),
            quarantined_peers=lambda: float(scores.quarantine.count(time.monotonic())),
        )
        await _serve(stack, "--registry-addr", app, config.registry_addr)
        await _serve(stack, "--metrics-addr", create_metrics_app(metrics=metrics, state=state), config.metrics_addr)
        if config.http_bootstrap_addr:
            await _serve(stack, "--http-bootstrap-addr", id_app(router.addresses), config.http_bootstrap_addr)
        await stack.enter_async_context(router.running())
        async with asyncio.TaskGroup() as group:
            advertising = group.create_task(advertiser.run(), name="advertiser")
            log.info("node up", version=__version__, registry=config.registry_addr, store=repr(store))
            scrubbing = group.create_task(scrubbed.run(), name="scrub")
            advising = group.create_task(_advise(config), name="doctor")
            yield router
            for task in (advertising, scrubbing, advising):
                task.cancel()


def _spreading(config: Config) -> Spreading | None:
    match config.mirror_parallel:
        case "off":
            return None
        case int(peers):
            return Spreading(peers=peers, at_once=True)
        case _:
            return Spreading()


async def _advise(config: Config) -> None:
    """Say once what on this machine keeps the node from being of use."""
    if config.oci_layout is not None:
        return
    await doctor.warn(
        doctor.Subject(
            socket=config.containerd_sock,
            namespace=config.containerd_namespace,
            content_path=config.containerd_content_path,
            registry=doctor.local_url(config.registry_addr),
            metrics=doctor.local_url(config.metrics_addr),
            registries=config.mirrored_registries,
        )
    )


async def _not_ready(router: Libp2pRouter) -> str | None:
    return None if await router.ready() else "no peer is connected"


async def _serve(stack: AsyncExitStack, flag: str, app: object, address: str) -> None:
    try:
        await stack.enter_async_context(serve(app, address))  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{flag}: {error}") from error


async def _store(config: Config, stack: AsyncExitStack) -> tuple[Store, Watcher]:
    if config.oci_layout is not None:
        check_layout(config.oci_layout)
        layout = LayoutStore(root=config.oci_layout)
        return layout, LayoutWatcher(store=layout, filters=config.filters)
    _warn_unless(lambda: check_socket(config.containerd_sock))
    _warn_unless(lambda: check_content_path(config.containerd_content_path))
    client = await stack.enter_async_context(
        Client(socket=config.containerd_sock, namespace=config.containerd_namespace)
    )
    store = ContainerdStore(client=client, content_path=config.containerd_content_path)
    return store, ContainerdWatcher(store=store, filters=config.filters)


def _warn_unless(check: Callable[[], None]) -> None:
    """Say what is not there yet: it may come, and what needs none of it works meanwhile."""
    try:
        check()
    except StoreUnavailable as error:
        log.warning("containerd is not there yet", error=str(error))


def _router(config: Config, metrics: Metrics) -> Libp2pRouter:
    host, port = parse_address(config.router_addr)
    registry_host, registry_port = parse_address(config.registry_addr)
    return Libp2pRouter(
        settings=Settings(
            key=load_or_create(config.data_dir),
            host=host,
            port=port,
            registry_host="" if registry_host in ("0.0.0.0", "::") else registry_host,  # noqa: S104 - compared
            registry_port=registry_port,
            interval=config.announce_interval,
            mesh_limit=config.mesh_limit,
            replication=config.replication,
            agent=f"spegel-py/{__version__}",
        ),
        bootstrap=_bootstrap(config, port),
        dropped=metrics.dropped_frames,
    )


def _bootstrap(config: Config, port: int) -> Bootstrap:
    match config.bootstrap_kind:
        case "dns":
            return DnsBootstrap(config.dns_bootstrap_domain, router_port=port, rng=random.Random())
        case "http" if config.bootstrap_url:
            return HttpBootstrap(config.bootstrap_url, router_port=port, cert_dir=config.http_bootstrap_cert_dir)
        case "static" if config.static_bootstrap_peers:
            return StaticBootstrap(config.static_bootstrap_peers, router_port=port)
    return NoBootstrap()
