"""The parts of a node that depend on its settings alone, each made by one function."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spegel_py import __version__
from spegel_py.config import Config
from spegel_py.errors import ConfigError, StoreUnavailable
from spegel_py.health.health import Health
from spegel_py.health.peer_health import HealthRules
from spegel_py.inflight.in_flight_sharing import InFlightSharing
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.slow_peers import ParallelSettings
from spegel_py.registry.proof_gate import ProofGate
from spegel_py.registry.server import parse_address
from spegel_py.routing.advertiser import Advertiser
from spegel_py.routing.cluster_keys import KeyFile, KeysMode
from spegel_py.routing.libp2p.bootstrap import (
    Bootstrap,
    DnsBootstrap,
    HttpBootstrap,
    NoBootstrap,
    StaticBootstrap,
)
from spegel_py.routing.libp2p.identity import load_or_create
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.router_settings import RouterSettings
from spegel_py.routing.peer_proofs import NodeSecret, PeerProofs
from spegel_py.store.base import Ingests, Origins, Replicas, Store, Watcher
from spegel_py.store.joined_store import JoinedOrigins, JoinedStore
from spegel_py.store.joined_watcher import JoinedWatcher
from spegel_py.supervision.isolation import IsolationThresholds
from spegel_py.supervision.observer import NodeSignals
from spegel_py.supervision.repairs import RepairActions
from spegel_py.supervision.supervisor import Supervisor
from spegel_py.telemetry.tracing import NO_TRACER, Tracer
from spegel_py.tools.addresses import MirrorAddress, local_url
from spegel_py.tools.basic_auth import Credentials
from spegel_py.tools.runtime_token import TokenFile
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.peer_prover import PeerProver

if TYPE_CHECKING:
    from spegel_py.store.containerd import (
        ContainerdStore,
        ContainerdWatcher,
        CriImages,
        OtherNamespaces,
    )
    from spegel_py.transfer.peer_tls import PeerTls


def make_tokens(config: Config) -> TokenFile | None:
    """Return the file with the tokens of this node's runtime; None without one."""
    return None if config.runtime_token is None else TokenFile(config.runtime_token)


def own_mirror(config: Config, auth: Credentials | None, tokens: TokenFile | None) -> MirrorAddress:
    """Return the address at which this process asks its own registry."""
    return MirrorAddress(
        local_url(config.own_addr),
        authorization=auth.header if auth else None,
        runtime_token=tokens.own if tokens else "",
    )


def make_parallel(config: Config) -> ParallelSettings | None:
    """Return the settings of parallel downloads; None if they are switched off."""
    match config.mirror_parallel:
        case "off":
            return None
        case int(peers):
            return ParallelSettings(peers=peers, at_once=True)
        case _:
            return ParallelSettings()


def make_health(
    config: Config,
    deadlines: Deadlines,
    router: Libp2pRouter,
    metrics: NodeMetrics,
    rng: random.Random,
) -> Health:
    """Return the health of all peers."""
    rules = HealthRules(
        passes=config.health_passes,
        fails=config.health_fails,
        timeout=config.health_timeout,
        passive_fails=config.health_passive_fails,
        passive_fail_timeout=config.health_passive_fail_timeout,
        first_byte=deadlines.first_byte,
    )
    return Health(
        rules=rules,
        interval=config.health_interval,
        metrics=metrics.health,
        random=rng,
        left=router.left,
        report=router.report_refusal,
    )


def make_sharing(
    config: Config,
    router: Libp2pRouter,
    store: Store,
    ingests: Ingests | None,
    advertiser: Advertiser,
    metrics: NodeMetrics,
) -> InFlightSharing | None:
    """Return in-flight sharing; None where it is switched off."""
    if not config.share_in_flight:
        return None
    return InFlightSharing(
        requests=router.requests,
        ingests=ingests,
        store=store,
        on_lead=metrics.in_flight.led,
        advertised=lambda: advertiser.advertised,
    )


def make_checks(config: Config, prover: PeerProver, tls: PeerTls | None) -> HTTPUpstream:
    """Return the HTTP client of health checks, with connections of its own.

    Checks need no password: probes are answered without one. The proof of the answer shows that the
    registry is the peer's own.
    """
    deadlines = Deadlines(connect=config.health_timeout, first_byte=config.health_timeout)
    return HTTPUpstream(deadlines=deadlines, prover=prover, tls=tls, is_copying=True)


def make_prover(config: Config, router: Libp2pRouter, metrics: NodeMetrics) -> PeerProver:
    """Return the asking side of proofs between peers."""
    return PeerProver(
        own_id=router.id,
        key_of=router.http_key,
        mode=PeerProofs(config.peer_proofs),
        counted=partial(metrics.routing.proven, "answer"),
    )


def make_proof_gate(
    config: Config, secret: NodeSecret, router: Libp2pRouter, metrics: NodeMetrics
) -> ProofGate | None:
    """Return the answering side of proofs between peers; None without proofs."""
    mode = PeerProofs(config.peer_proofs)
    if mode is PeerProofs.OFF:
        return None
    return ProofGate(
        secret=secret,
        mode=mode,
        is_member=router.is_member,
        counted=partial(metrics.routing.proven, "request"),
    )


async def make_tracer(config: Config, stack: AsyncExitStack, *, instance: str) -> Tracer:
    """Return the tracer, which is closed with the stack; without an endpoint it does nothing.

    Raises ConfigError.
    """
    if config.tracing_endpoint is None:
        return NO_TRACER
    try:
        from spegel_py.telemetry import otlp
    except ImportError as error:
        raise ConfigError(
            f"--tracing-endpoint needs OpenTelemetry, which is not installed ({error}): "
            "pip install 'spegel-py[tracing]'"
        ) from error
    tracing = otlp.tracing(endpoint=config.tracing_endpoint, version=__version__, instance=instance)
    return await stack.enter_async_context(tracing)


async def advise(config: Config) -> None:
    """Log the problems of this machine once, as the doctor finds them."""
    if config.oci_layout is not None:
        return
    from spegel_py.host import doctor

    await doctor.warn(
        doctor.Subject(
            socket=config.containerd_sock,
            namespace=config.containerd_namespace,
            content_path=config.containerd_content_path,
            registry=local_url(config.own_addr),
            metrics=local_url(config.metrics_addr),
            registries=config.registries,
        )
    )


def make_supervisor(
    config: Config,
    router: Libp2pRouter,
    watcher: Watcher,
    health: Health,
    metrics: NodeMetrics,
    *,
    not_preheated: Callable[[], str | None],
    floor_missed: Callable[[], Mapping[str, str]],
    draining: Callable[[], Mapping[str, str]],
    preheat_faults: Callable[[], Mapping[str, str]],
    secret_faults: Callable[[], Mapping[str, str]],
    tag_conflicts: Callable[[], Mapping[str, str]],
) -> Supervisor:
    """Return the supervisor, with its view of the other parts and its repairs."""
    containerd = containerd_watcher(config, watcher)

    def folders() -> list[Path]:
        content = containerd.describe().path if containerd else config.oci_layout
        return [folder for folder in (config.data_dir, content) if folder is not None]

    return Supervisor(
        folder=config.data_dir,
        signals=NodeSignals(
            connected=router.connected,
            goodbyes=router.goodbyes,
            expects_peers=lambda: router.expects_peers,
            life=lambda: router.life,
            ping=router.ping,
            nothing_shared=containerd.why_not_sharing if containerd else lambda: None,
            not_preheated=not_preheated,
            containerd_away=containerd.away if containerd else lambda: None,
            containerd_error=(lambda: containerd.describe().error) if containerd else str,
            pulls=lambda: metrics.pulls.outcomes,
            unhealthy=lambda: health.reasons(time.monotonic()),
            predicted=health.predicted,
            twins=router.duplicate_identities,
            floor_missed=floor_missed,
            draining=draining,
            preheat_faults=preheat_faults,
            secret_faults=secret_faults,
            tag_conflicts=tag_conflicts,
            folders=folders,
        ),
        actions=RepairActions(
            rejoin=router.rejoin,
            await_router=router.revived,
            restart_router=router.restart,
            reconnect_containerd=containerd.reconnect if containerd else None,
        ),
        thresholds=IsolationThresholds(
            warn=config.warn_when_isolated_for,
            critical=config.critical_when_isolated_for,
            ready_when_alone=config.ready_when_alone,
        ),
        registry=metrics.registry,
        rng=random.Random(),
    )


def containerd_watcher(config: Config, watcher: Watcher) -> ContainerdWatcher | None:
    """Return the watcher if the store is containerd's."""
    if config.oci_layout is not None:
        return None
    from spegel_py.store.containerd import ContainerdWatcher

    if isinstance(watcher, JoinedWatcher):
        watcher = watcher.watchers[0]
    return watcher if isinstance(watcher, ContainerdWatcher) else None


def shared_namespaces(config: Config) -> tuple[str, ...]:
    """Return the containerd namespaces whose images are shared; the first one has the replicas."""
    return tuple(dict.fromkeys((config.containerd_namespace, *config.containerd_more_namespaces)))


def _containerd_store(config: Config, store: Store) -> ContainerdStore | None:
    """Return the store of the first namespace if the store is containerd's."""
    if config.oci_layout is not None:
        return None
    from spegel_py.store.containerd import ContainerdStore

    if isinstance(store, JoinedStore):
        store = store.stores[0]
    return store if isinstance(store, ContainerdStore) else None


async def make_store(
    config: Config, stack: AsyncExitStack
) -> tuple[Store, Watcher, Origins, Replicas]:
    """Return the store, its watcher, its origins and its replicas.

    Only the modules of its kind are loaded.
    """
    if config.oci_layout is not None:
        from spegel_py.store.layout import LayoutStore, LayoutWatcher, check_layout

        await check_layout(config.oci_layout)
        layout = LayoutStore(root=config.oci_layout)
        watcher = LayoutWatcher(store=layout, filters=config.filters)
        return layout, watcher, layout, layout.replicas
    from spegel_py.store.containerd import (
        Client,
        ContainerdStore,
        ContainerdWatcher,
        check_socket,
    )

    # The daemon may start later, and the doctor logs what is missing.
    with suppress(StoreUnavailable):
        check_socket(config.containerd_sock)
    stores = [
        ContainerdStore(
            client=await stack.enter_async_context(
                Client(socket=config.containerd_sock, namespace=namespace)
            ),
            content_path=config.containerd_content_path,
            snapshotter=config.snapshotter,
        )
        for namespace in shared_namespaces(config)
    ]
    watchers = [ContainerdWatcher(store=each, filters=config.filters) for each in stores]
    first = stores[0]
    if len(stores) == 1:
        return first, watchers[0], first.origins, first.replicas
    origins = JoinedOrigins([each.origins for each in stores])
    return JoinedStore(stores), JoinedWatcher(watchers), origins, first.replicas


def make_namespaces(config: Config, store: Store) -> OtherNamespaces | None:
    """Return containerd's other namespaces; None for another store."""
    if (containerd := _containerd_store(config, store)) is None:
        return None
    from spegel_py.store.containerd import OtherNamespaces

    return OtherNamespaces(client=containerd.client, shared=shared_namespaces(config))


def make_cri_images(config: Config, store: Store) -> CriImages | None:
    """Return the images of containerd's CRI; None for another store."""
    if (containerd := _containerd_store(config, store)) is None:
        return None
    from spegel_py.store.containerd import CriImages

    return CriImages(client=containerd.client)


def make_ingests(config: Config, store: Store, *, of_all: bool = False) -> Ingests | None:
    """Return the ingests of this node's store; None if they cannot be seen.

    `of_all` includes all namespaces of containerd; such content is not served, only its size is
    read.
    """
    if config.oci_layout is not None:
        from spegel_py.store.layout import LayoutIngests

        return LayoutIngests(root=config.oci_layout)
    containerd = _containerd_store(config, store)
    if containerd is None or config.containerd_content_path is None:
        return None
    from spegel_py.store.containerd import ContainerdIngests

    namespaces = None if of_all else shared_namespaces(config)
    return ContainerdIngests(folder=containerd.folder, namespaces=namespaces)


def make_key_file(config: Config) -> KeyFile | None:
    """Return the file with the cluster's keys; None without one. Raises ConfigError."""
    if config.cluster_keys is None or not config.has_cluster_keys:
        return None
    return KeyFile(config.cluster_keys)


def keys_state(
    config: Config, key_file: KeyFile | None, router: Libp2pRouter
) -> Mapping[str, object] | None:
    """Return the state of the cluster's keys as JSON; None without them."""
    if key_file is None:
        return None
    members = router.members_by_kind()
    return {**key_file.describe(), "mode": config.cluster_keys_mode, "members": members}


def make_peer_tls(config: Config) -> PeerTls | None:
    """Return the certificates between peers; None without them. Raises ConfigError."""
    if config.peer_tls is None or not config.has_peer_tls:
        return None
    from spegel_py.transfer.peer_tls import PeerTls, TlsMode  # only nodes with TLS need it

    return PeerTls(config.peer_tls, mode=TlsMode(config.peer_tls_mode))


def make_router(
    config: Config,
    metrics: NodeMetrics,
    auth: Credentials | None,
    key_file: KeyFile | None,
    secret: NodeSecret,
) -> Libp2pRouter:
    """Return the router, with the identity kept in the data directory."""
    host, port = parse_address(config.router_addr)
    registry_host, registry_port = parse_address(config.registry_addr)
    is_wildcard = registry_host in ("0.0.0.0", "::")  # noqa: S104 - compared
    return Libp2pRouter(
        settings=RouterSettings(
            key=load_or_create(config.data_dir),
            host=host,
            port=port,
            registry_host="" if is_wildcard else registry_host,
            registry_port=registry_port,
            interval=config.announce_interval,
            mesh_limit=config.mesh_limit,
            replication=config.replication,
            agent=f"spegel-py/{__version__}",
            shares=config.share_in_flight,
            floor=config.replica_floor,
            zone=config.zone,
            tls=config.has_peer_tls,
            password=auth.pair if auth else b"",
            other_passwords=auth.other_pairs if auth else (),
            secret=None if config.peer_proofs == PeerProofs.OFF else secret,
            keys_mode=KeysMode(config.cluster_keys_mode),
        ),
        keys=key_file.keys if key_file else (),
        bootstrap=make_bootstrap(config, port),
        dropped=metrics.routing.dropped,
        carried=metrics.routing.carried,
        counted=metrics.routing.pinged,
    )


def make_bootstrap(config: Config, port: int) -> Bootstrap:
    """Return the source of first peers."""
    match config.bootstrap_kind:
        case "dns":
            return DnsBootstrap(config.dns_bootstrap_domain, router_port=port, rng=random.Random())
        case "http" if config.bootstrap_url:
            return HttpBootstrap(
                config.bootstrap_url, router_port=port, cert_dir=config.http_bootstrap_cert_dir
            )
        case "static" if config.static_bootstrap_peers:
            return StaticBootstrap(config.static_bootstrap_peers, router_port=port)
    return NoBootstrap()
