"""The settings of `spegel-py registry`: a field of `Config` each, with default, help and parser.

Names, variables and meanings are Spegel's where Spegel has the setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py import settings, values
from spegel_py.errors import ConfigError, NameInvalid
from spegel_py.node_name import NODE_NAME, RUNTIME_TOKEN
from spegel_py.oci.filters import WILDCARDS, Filters, Pattern
from spegel_py.oci.reference import canonical_registry, check_registry
from spegel_py.settings import declared, setting
from spegel_py.telemetry.logging import LOG_FORMAT, LOG_LEVEL, LogFormat

AUTO = "auto"
CONTROL_SOCKET = "control.sock"
CONTENT_PATH = Path("/var/lib/containerd/io.containerd.content.v1.content")


def _parallel(given: Any) -> str | int:
    """Return auto, off, or a number of peers."""
    written = values.text_or_off(given)
    try:
        return written if written in ("auto", "off") else values.integer(2, 16)(written)
    except ValueError:
        raise ValueError(
            f"{values.quoted(given)} should be auto, off or a number from 2 to 16"
        ) from None


def _registries(given: Any) -> tuple[str, ...]:
    """Return registries as they were given: each a URL, or a host with its port."""
    found = values.texts(given)
    for each in found:
        try:
            _host(each)
        except ValueError:
            advice = "should be a registry such as https://registry.example:5000"
            raise ValueError(f"{values.quoted(each)} {advice}") from None
    return found


def _public_registries(given: Any) -> tuple[str, ...]:
    """Return registries, or registries with patterns of repositories."""
    from spegel_py.registry.private_rules import check_public  # not loaded without entries

    return tuple(map(check_public, values.texts(given)))


def _registry_or_none(given: Any) -> str:
    """Return a registry's `host[:port]`, empty for none."""
    written = values.text(given)
    try:
        return check_registry(written) if written else ""
    except NameInvalid:
        raise ValueError(f"{values.quoted(given)} should be a registry such as docker.io") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node, parsed. Times are in seconds; a path is None where it is empty."""

    log_level: str = declared(LOG_LEVEL)
    log_format: LogFormat = declared(LOG_FORMAT)
    registry_addr: str = setting(
        values.address, ":5000", "address of the registry that containerd and peers ask"
    )
    runtime_addr: str = setting(
        values.address_or_none,
        "",
        (
            "address for this node's own container runtime alone, such as 127.0.0.1:5002, which "
            "is then the one for hosts.toml: registry-addr answers with this node's own content "
            "and asks no peer; none: registry-addr is for both"
        ),
    )
    router_addr: str = setting(values.address, ":5001", "address of the libp2p router")
    metrics_addr: str = setting(values.address, ":9090", "address of the metrics page")
    node_name: str = declared(NODE_NAME)
    runtime_token: Path | None = declared(RUNTIME_TOKEN)
    zone: str = setting(
        values.zone,
        "",
        (
            "zone that this node is in, such as eu-1a: pulls prefer peers of the same zone, and "
            "replicas of an image are never all in one zone while nodes are in several, for which "
            "nodes without a zone are taken for one zone"
        ),
    )
    data_dir: Path | None = setting(
        values.path,
        None,
        (
            "folder for the identity (private.key), alerts and audit; without a folder the "
            "identity changes with each start"
        ),
    )
    containerd_sock: Path = setting(
        values.needed_path, Path("/run/containerd/containerd.sock"), "containerd's socket"
    )
    containerd_namespace: str = setting(
        values.text, "k8s.io", "containerd namespace whose images are shared"
    )
    containerd_more_namespaces: tuple[str, ...] = setting(
        values.texts,
        (),
        (
            "further containerd namespaces whose images are shared, such as moby (Docker) and "
            "default (ctr, nerdctl); of a tag in several namespaces the first one's digest counts"
        ),
    )
    containerd_content_path: Path | None = setting(
        values.path,
        CONTENT_PATH,
        (
            "containerd's content store; if it is missing, or another daemon's, containerd is "
            "asked for its own; none: blobs are read through the socket"
        ),
    )
    snapshotter: str = setting(
        values.text,
        "overlayfs",
        (
            "containerd's snapshotter, for images that are unpacked ahead of their pulls; it "
            "counts where neither the CRI nor a pulled image tells another"
        ),
    )
    oci_layout: Path | None = setting(
        values.path, None, "serve this OCI image-layout folder instead of containerd"
    )
    bootstrap_kind: str = setting(
        values.text, "static", "source of the first peers", choices=("dns", "http", "static")
    )
    static_bootstrap_peers: tuple[str, ...] = setting(
        values.texts, (), "multiaddrs of first peers, with or without /p2p/<id>", many=True
    )
    dns_bootstrap_domain: str = setting(
        values.text, "", "name whose A and AAAA records are first peers"
    )
    http_bootstrap_addr: str = setting(values.text, "", "address that serves /id to other nodes")
    http_bootstrap_url: str = setting(values.text, "", "URL of another node's /id")
    http_bootstrap_peer: str = setting(values.text, "", "older name of http-bootstrap-url")
    http_bootstrap_cert_dir: Path | None = setting(
        values.path, None, "folder with ca.crt, tls.crt and tls.key for that URL"
    )
    mirrored_registries: tuple[str, ...] = setting(
        _registries, (), "registries that are mirrored; _default, * or none means all", many=True
    )
    default_registry: str = setting(
        _registry_or_none,
        "",
        (
            "registry of requests that name none, as docker.io for dockerd's registry-mirrors; "
            "without it such requests are answered by digest only"
        ),
    )
    registry_filters: tuple[Pattern, ...] = setting(
        values.patterns,
        (),
        "Go regular expressions (RE2) over registry/repository[:tag]; a match is not mirrored",
        many=True,
    )
    tag_ttl: float = setting(
        values.seconds(0, 10 * 365 * 86400),
        86400.0,
        (
            "time for which a tag is answered after a node saw it at its registry, from here "
            "or from a peer; 0: digests only"
        ),
    )
    old_tags: bool = setting(
        values.boolean,
        True,
        (
            "answer a tag that is older than tag-ttl while its registry does not answer; a node "
            "behind a proxy cannot reach registries by itself: false there"
        ),
    )
    tag_policy: str = setting(
        values.text,
        "peers-first",
        (
            "who is asked first for a tag; peers-first: nodes, for tag-ttl; upstream-first: the "
            "registry, so that nobody gets an old digest, and nodes only while it does not answer; "
            "digests come from nodes first in both"
        ),
        choices=("peers-first", "upstream-first"),
    )
    tags_from_peers: str = setting(
        values.text_or_off,
        AUTO,
        (
            "whose tags are taken; all: every peer's, Spegel's own nodes too; members: only "
            "those that a node with a cluster key saw at their registry, or has; off: no peer is "
            "asked for a tag; auto: members if cluster-keys are required, otherwise all"
        ),
        choices=(AUTO, "all", "members", "off"),
    )
    tag_witnesses: int = setting(
        values.integer(1, 8),
        1,
        (
            "number of different nodes that must have seen a tag's digest at its registry; with "
            "fewer, the tag comes from the registry, and this node is a further one"
        ),
    )
    lists: str = setting(
        values.text_or_off,
        "registry-away",
        (
            "lists of tags and of referrers (signatures), put together from what nodes have; "
            "registry-away: only while the registry does not answer, since it may have more; "
            "always; off: none"
        ),
        choices=("off", "registry-away", "always"),
    )
    mirror_resolve_timeout: float = setting(
        values.seconds(0.001, 60),
        0.2,
        (
            "longest wait for the first peer of a lookup: it takes 10 ms over the network, so"
            " the limit matters only if a lookup hangs"
        ),
    )
    mirror_resolve_retries: int = setting(
        values.integer(1, 64), 8, "number of peers tried for one request, at most"
    )
    mirror_parallel: str | int = setting(
        _parallel,
        "auto",
        (
            "number of peers that send a large blob at the same time: 2 to 16; auto: up to 4 "
            "if a single peer sends less than 20 MB/s; off"
        ),
    )
    share_in_flight: bool = setting(
        values.boolean,
        True,
        (
            "share content in flight: one node fetches a new image from the registry, and all"
            " other nodes take it from that node while it arrives"
        ),
    )
    share_in_flight_slots: int = setting(
        values.integer(0, 10_000),
        32,
        (
            "number of in-flight blobs given to other nodes at a time, beside "
            "--max-transfers; a refused node takes the blob from another node; 0: no limit"
        ),
    )
    verify_blobs: str = setting(
        values.text_or_off,
        "sample",
        (
            "blobs above 4 MiB that are hashed, on their way from a peer and once after this "
            "node sent them; sample: one in 32, and every blob that a runtime asks for again;"
            " off: none"
        ),
        choices=("off", "sample", "all"),
    )
    max_transfers_per_peer: int = setting(
        values.integer(0, 10_000),
        16,
        (
            "number of blobs sent at a time to one other node, or to one client that is not "
            "this node's runtime; it gets further blobs elsewhere; 0: no limit"
        ),
    )
    max_transfers: int = setting(
        values.integer(0, 100_000),
        128,
        (
            "number of blobs sent to all other nodes at a time: each then still gets 1 MB/s "
            "of a link of 1 Gbit/s; 0: no limit"
        ),
    )
    max_upload_rate: int = setting(
        values.rate(0, 10**12),
        0,
        (
            "rate of all that is sent to other nodes together, as in 10MB/s; a plain number is "
            "bytes per second; content up to 256 KiB does not wait; a peer gives up a transfer "
            "below 32 KiB/s, and a transfer with more than a minute to go that gets less than 48 "
            "KiB/s after 10 s, 64 KiB/s after a minute or 128 KiB/s after five; 0: no limit"
        ),
    )
    health_interval: float = setting(
        values.seconds(0.5, 600), 10.0, "time between two active checks of a peer's registry"
    )
    health_timeout: float = setting(
        values.seconds(0.1, 60), 3.0, "longest time for an active check; below health-interval"
    )
    health_passes: int = setting(
        values.integer(1, 100), 2, "passed checks in a row that make an unhealthy peer healthy"
    )
    health_fails: int = setting(
        values.integer(1, 100),
        3,
        (
            "failed checks in a row that make a peer unhealthy: it is asked for nothing while"
            " another peer has the content"
        ),
    )
    health_passive_fails: int = setting(
        values.integer(1, 100),
        3,
        (
            "requests without an answer, within health-passive-fail-timeout, that make a peer"
            " unhealthy for that time"
        ),
    )
    health_passive_fail_timeout: float = setting(
        values.seconds(1, 86400),
        300.0,
        (
            "time for which failed requests make a peer unhealthy; a request that succeeds "
            "ends it at once"
        ),
    )
    announce_interval: float = setting(
        values.seconds(0.5, 600),
        4.0,
        (
            "time between announcements to nodes of an older version, which miss this node after "
            "two intervals; other nodes are pinged, and get a refresh every 75 intervals"
        ),
    )
    mesh_limit: int = setting(
        values.integer(0, 100_000),
        128,
        (
            "cluster size up to which every node announces all its keys to every other node; "
            "above, a key goes to its closest peers"
        ),
    )
    replication: int = setting(
        values.integer(1, 100),
        20,
        "number of closest peers that a key is announced to above the mesh limit",
    )
    replica_floor: int = setting(
        values.integer(0, 64),
        0,
        (
            "number of nodes that keep an image while it is wanted, though their runtimes remove "
            "it; nodes that have it keep it, and others take it from them; 1 costs no traffic, "
            "only disk; 0: none"
        ),
    )
    replica_ceiling: int = setting(
        values.integer(0, 64),
        0,
        (
            "number of nodes that keep an image which is pulled often, at most; with zones, such "
            "an image is kept in each; 0: as replica-floor"
        ),
    )
    replicate_images: tuple[Pattern, ...] = setting(
        values.patterns,
        (),
        (
            "Go regular expressions (RE2) over registry/repository[:tag]; only a match is kept "
            "by replica-floor; none means all"
        ),
        many=True,
    )
    replica_keep: float = setting(
        values.seconds(0, 10 * 365 * 86400),
        86400.0,
        "time for which an image is wanted after a runtime had it; 0: for ever",
    )
    replica_max_disk: int = setting(
        values.integer(0, 100),
        10,
        (
            "percent of the content's file system that may be taken by images which only "
            "replica-floor keeps"
        ),
    )
    replica_rate: int = setting(
        values.rate(64 * 1024, 10**12),
        20 * 1024 * 1024,
        (
            "rate at which this node takes images that other nodes ask it to keep, all together; "
            "it gives way to pulls by runtimes"
        ),
    )
    evacuate_on_stop: str = setting(
        values.text_or_off,
        "off",
        (
            "sole: at SIGTERM, bring the images that only this node has to other nodes, the "
            "smallest first, for 20 s at most; for machines whose content goes with them; off: "
            "end at once, since a node that is started again has its content"
        ),
        choices=("off", "sole"),
    )
    evacuate_cordoned: bool = setting(
        values.boolean,
        False,
        (
            "drain, and bring the images that only this node has to other nodes, while Kubernetes "
            "has cordoned the machine: kubectl cordon or drain, or an autoscaler; needs node-name, "
            "and a ServiceAccount that may get the node"
        ),
    )
    control_socket: str = setting(
        values.text,
        AUTO,
        (
            "Unix socket for `spegel-py preheat` and for programs of this machine, which only this "
            "node's user and root can open; auto: control.sock in data-dir, if there is one; none: "
            "no socket"
        ),
    )
    cluster_keys: Path | None = setting(
        values.path,
        None,
        (
            "file with the cluster's keys, each a line of 64 hexadecimal digits, or a swarm.key "
            "file: a node without one of these keys cannot become a peer; it is read again when "
            "it changes"
        ),
    )
    cluster_keys_mode: str = setting(
        values.text_or_off,
        "require",
        (
            "require: only nodes with a key of cluster-keys are peers; accept: nodes without a "
            "key are too, as while keys are introduced; off: the keys are not used"
        ),
        choices=("off", "accept", "require"),
    )
    peer_tls: Path | None = setting(
        values.path,
        None,
        (
            "folder with ca.crt, tls.crt and tls.key, as a Secret of cert-manager has them: nodes "
            "verify each other's certificate, and encrypt what they send each other over HTTP; "
            "the files are read again when they change"
        ),
    )
    peer_tls_mode: str = setting(
        values.text_or_off,
        "require",
        (
            "require: nodes without TLS are neither asked nor answered; accept: they are, as while "
            "TLS is introduced; off: peer-tls is not used"
        ),
        choices=("off", "accept", "require"),
    )
    peer_proofs: str = setting(
        values.text_or_off,
        "prefer",
        (
            "proofs that an HTTP request or answer comes from a peer that is connected by libp2p, "
            "in place of the password. prefer: used with peers that know them; require: other "
            "peers, such as Spegel's nodes, are neither asked nor answered; off: not used"
        ),
        choices=("off", "prefer", "require"),
    )
    private_images: str = setting(
        values.text_or_off,
        "off",
        (
            "guard: give this node's runtime a private image only if the image's registry gives it "
            "to the credentials of the pull; needs runtime-token; every image is private that "
            "public-registries does not name; off: every client of this node may pull all"
        ),
        choices=("off", "guard"),
    )
    public_registries: tuple[str, ...] = setting(
        _public_registries,
        (),
        (
            "registries, or repositories of a registry, whose images everybody may pull, such as "
            "docker.io, *.example or ghcr.io/team/*; private-images asks no registry about them"
        ),
        many=True,
    )
    private_when_down: str = setting(
        values.text,
        "cached",
        (
            "answer for a private image while its registry does not answer; cached: the image is "
            "given if the registry allowed its repository to the same credentials within a day, "
            "as data-dir keeps it, hashed; deny; allow: everybody gets it"
        ),
        choices=("cached", "deny", "allow"),
    )
    containerd_registry_config_path: Path | None = setting(
        values.path,
        Path("/etc/containerd/certs.d"),
        (
            "folder of containerd's hosts.toml files, of which private-images takes the server and "
            "the certificates of a registry; none: the registry's own name, and the system's "
            "certificates"
        ),
    )
    registry_credentials: Path | None = setting(
        values.path,
        None,
        (
            "docker config.json with the registries' users and passwords for pre-heating, or a "
            "folder of such files; no pull of a runtime uses them"
        ),
    )
    preheat_from_peers: bool = setting(
        values.boolean,
        True,
        (
            "fetch images that `spegel-py preheat` on another node asks this node for, from peers "
            "and from the registries with this node's credentials"
        ),
    )
    preheat_file: Path | None = setting(
        values.path,
        None,
        (
            "YAML list of images that nodes have while they are listed; it is read again when it "
            "changes"
        ),
    )
    ready_when_preheated: float = setting(
        values.seconds(0, 86400),
        300.0,
        (
            "longest time from the start for which images of preheat-file with `ready: true` keep "
            "the node from being ready; 0: not at all"
        ),
    )
    warn_when_isolated_for: float = setting(
        values.seconds(10, 86400),
        60.0,
        "time without any peer, counted from the start, after which the log warns once",
    )
    critical_when_isolated_for: float = setting(
        values.seconds(10, 7 * 86400),
        300.0,
        "time without any peer after which the log has a critical line",
    )
    ready_when_alone: float | None = setting(
        values.duration_or_off,
        30.0,
        (
            "time after which a node is ready without a peer, if it has lost none, as in a "
            "cluster of one; off: never"
        ),
    )
    tracing_endpoint: str | None = setting(
        values.traces_url,
        None,
        (
            "URL of the collector for spans over OTLP/HTTP, as in http://collector:4318; "
            "needs the extra `tracing` to be installed"
        ),
    )
    debug_web_enabled: bool = setting(
        values.boolean,
        True,
        ("serve the status page, /debug/web/ at metrics-addr, and the measuring of pulls there"),
    )
    debug_hosts: tuple[str, ...] = setting(
        values.texts,
        (),
        (
            "names under which the pages below /debug/ at metrics-addr are reached, such as "
            "the name of an Ingress or a Service; addresses, localhost, the host's name and "
            "node-name need not be given, and /metrics is answered under any name"
        ),
        many=True,
    )

    @classmethod
    def load(
        cls, *, flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
    ) -> Config:
        """Return the settings from flags, environment and file.

        Raises ConfigError, which names the flag, variable or key at fault.
        """
        found = settings.resolve(
            REGISTRY,
            flags=flags,
            environment=environment,
            file=file,
            others=of_host() if file else (),
        )
        config = cls(**found)
        config.check()
        return config

    def check(self) -> None:
        """Raise ConfigError for settings that are valid by themselves but not together."""
        if self.bootstrap_kind == "dns" and not self.dns_bootstrap_domain:
            raise ConfigError("--bootstrap-kind dns needs --dns-bootstrap-domain")
        if self.bootstrap_kind == "http" and not (self.bootstrap_url or self.http_bootstrap_addr):
            raise ConfigError(
                "--bootstrap-kind http needs --http-bootstrap-url, or --http-bootstrap-addr to be "
                "asked"
            )
        if self.evacuate_cordoned and not self.node_name:
            raise ConfigError(
                "--evacuate-cordoned needs --node-name, the name that Kubernetes uses"
            )
        if self.tag_policy == "upstream-first" and not self.old_tags:
            raise ConfigError(
                "--tag-policy upstream-first asks the registry whether it is there, and "
                "--old-tags=false says that this node cannot: for tags that always come from the "
                "registry give --tag-ttl 0 instead of both"
            )
        if self.private_images == "guard" and self.runtime_token is None:
            raise ConfigError(
                "--private-images guard needs --runtime-token: without it a Pod could ask in "
                "containerd's place, and choose whom this node asks"
            )
        if self.tag_witnesses > self.mirror_resolve_retries:
            raise ConfigError(
                f"--tag-witnesses {self.tag_witnesses} must not be above "
                f"--mirror-resolve-retries {self.mirror_resolve_retries}, the peers that are asked"
            )
        written = values.written_duration
        if self.health_timeout >= self.health_interval:
            raise ConfigError(
                f"--health-timeout {written(self.health_timeout)} must be below --health-interval "
                f"{written(self.health_interval)}; "
                "a check has to end before the next one begins"
            )
        if self.critical_when_isolated_for <= self.warn_when_isolated_for:
            raise ConfigError(
                f"--critical-when-isolated-for: {written(self.critical_when_isolated_for)} must be "
                "longer than "
                f"--warn-when-isolated-for ({written(self.warn_when_isolated_for)})"
            )
        if 0 < self.replica_ceiling < self.replica_floor:
            raise ConfigError(
                f"--replica-ceiling {self.replica_ceiling} must not be below --replica-floor "
                f"{self.replica_floor}; 0 is the same as the floor"
            )
        self._check_addresses()

    def _check_addresses(self) -> None:
        for flag, address in (
            ("--registry-addr", self.registry_addr),
            ("--runtime-addr", self.runtime_addr),
            ("--router-addr", self.router_addr),
        ):
            if address.endswith(":0"):
                raise ConfigError(f"{flag}: port 0 cannot be told to others; give a fixed port")
        if self.runtime_addr == self.registry_addr:
            raise ConfigError(
                f"--runtime-addr {self.runtime_addr} is --registry-addr too; give another port, or "
                "none to have one port for both"
            )

    def shown(self) -> Mapping[str, object]:
        """Return the settings that commands ask a running node for, as flags have them."""
        found = {name: _as_flag(getattr(self, name)) for name in FOR_DOCTOR}
        return found | {"control_socket": _as_flag(self.control_path)}

    @property
    def control_path(self) -> Path | None:
        """The path of the control socket; None if there is none."""
        if self.control_socket == AUTO:
            return self.data_dir / CONTROL_SOCKET if self.data_dir else None
        return values.path(self.control_socket)

    @property
    def tag_rule(self) -> str:
        """The value of tags-from-peers without auto: all, members or off."""
        if self.tags_from_peers != AUTO:
            return self.tags_from_peers
        needs_keys = self.has_cluster_keys and self.cluster_keys_mode == "require"
        return "members" if needs_keys else "all"

    @property
    def has_cluster_keys(self) -> bool:
        """True if connections to peers are encrypted with the cluster's keys."""
        return self.cluster_keys is not None and self.cluster_keys_mode != "off"

    @property
    def has_peer_tls(self) -> bool:
        """True if the registries of peers are asked by TLS."""
        return self.peer_tls is not None and self.peer_tls_mode != "off"

    @property
    def own_addr(self) -> str:
        """The address that this node's own runtime asks."""
        return self.runtime_addr or self.registry_addr

    @property
    def bootstrap_url(self) -> str:
        """The URL to bootstrap from, under either name of its setting."""
        return self.http_bootstrap_url or self.http_bootstrap_peer

    @property
    def registries(self) -> tuple[str, ...]:
        """The registries that are mirrored, as they were given; none means all."""
        given = self.mirrored_registries
        return () if any(_host(each) in WILDCARDS for each in given) else given

    @property
    def listed_registries(self) -> frozenset[str]:
        """The registries that are named for mirroring, beside a wildcard too, each as `host[:port]`
        in the canonical spelling."""
        named = frozenset(map(_host, self.mirrored_registries)) - set(WILDCARDS)
        return frozenset(map(canonical_registry, named))

    @property
    def filters(self) -> Filters:
        """The filters of images that are not mirrored.

        A registry may be given as a URL, as in Spegel.
        """
        return Filters(patterns=self.registry_filters, registries=map(_host, self.registries))


def of_host() -> frozenset[str]:
    """Return the settings of the commands that change containerd's folder.

    One file may have the settings of all commands.
    """
    from spegel_py.host import cleanup, configuration  # a node without a file does not need them

    return frozenset(one.name for one in (*configuration.SETTINGS, *cleanup.SETTINGS))


FOR_DOCTOR = (
    "registry_addr",
    "runtime_addr",
    "runtime_token",
    "metrics_addr",
    "containerd_sock",
    "containerd_namespace",
    "containerd_content_path",
    "oci_layout",
    "mirrored_registries",
    "registry_filters",
)
"""The settings that a running node tells to `spegel-py doctor`."""


def _as_flag(value: object) -> str | list[str]:
    if isinstance(value, tuple):
        return [str(getattr(each, "pattern", each)) for each in value]
    return "" if value is None else str(value)


def _host(registry: str) -> str:
    return urlsplit(registry).netloc if "://" in registry else registry.rstrip("/")


REGISTRY = settings.declared_in(Config)
"""All settings of a node, in the order of their declaration."""
