"""The facts about this machine that the checks judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.store.containerd import CriStatus, ImageSettings

DEFAULT = "_default"
"""Name of the folder with the hosts.toml for every registry without a folder of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The examined node, as its settings describe it."""

    socket: Path
    namespace: str
    content_path: Path | None
    containerd_config: Path | None = None
    """containerd's configuration file; None for the file that the running daemon was given."""
    registry: str
    """URL of the node's registry, as this machine reaches it."""
    metrics: str
    """URL of the node's metrics page."""
    certs: Path | None = None
    """Folder of the hosts.toml files; None for the folders that containerd searches."""
    is_layout: bool = False
    """True for a node that serves an OCI image layout, and so needs no containerd."""
    registries: tuple[str, ...] = ()
    """Mirrored registries, as hosts or as URLs; none means all."""
    filters: Filters = EVERYTHING
    is_in_pod: bool = False
    """True in a Pod, which sees only the mounted folders of the machine."""
    authorization: str | None = field(default=None, repr=False)
    """The Authorization header for the registry."""
    runtime_addr: str = ""
    """The address for the node's own containerd alone; empty for one port for all."""
    closed_at: tuple[str, ...] = ()
    """URLs at which that address must not answer."""
    runtime_token: str = field(default="", repr=False)
    """The newest token of the node's runtime; empty if it has none, or if it cannot be read."""

    @property
    def config_file(self) -> Path:
        """containerd's configuration file, the usual one if it is not known."""
        return self.containerd_config or Path("/etc/containerd/config.toml")


@dataclass(frozen=True, slots=True)
class Unknown:
    """The reason why a fact could not be found out, and a remedy if there is one."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The content of containerd's configuration file, imports included."""

    version: int
    images: ImageSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The proxies in containerd's environment; empty for none."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    """URLs, which may contain a password."""
    exempt: str = ""
    """Hosts without a proxy, as in NO_PROXY."""
    source: str
    """The process or file that these values were read from."""
    unit: str = "containerd.service"
    """The service that runs containerd."""


@dataclass(frozen=True, slots=True)
class MirrorHost:
    """A host in a hosts.toml."""

    url: str
    capabilities: frozenset[str]
    node: str | None = None
    """The name of the node that `spegel-py configuration` wrote there; None if another program did.
    """
    token: str | None = None
    """The fingerprint of the runtime token that is sent there; None if none is."""
    is_spegel: bool = False
    """True if spegel-py answers there."""
    answer: str = "not asked"
    """The host's answer, in a few words."""
    is_silent: bool = False
    """True if it gives no answer: containerd then waits for 30 s, or for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFile:
    """The hosts.toml that containerd finds for a registry."""

    registry: str
    path: Path | None = None
    """Path of the hosts.toml; None if there is none."""
    mirrors: tuple[MirrorHost, ...] = ()
    server: str | None = None
    """URL at which containerd continues, as the file has it."""
    problem: str = ""
    """Reason why containerd cannot read the file."""
    is_denied: bool = False
    """True if this user may not read the file."""
    is_asked: bool = True
    """False if the settings do not name the registry, but it has a folder of its own."""

    @property
    def ours(self) -> MirrorHost | None:
        """The first host that is a node of spegel-py: one that answers, else one by its header."""
        answering = [mirror for mirror in self.mirrors if mirror.is_spegel]
        written = [mirror for mirror in self.mirrors if mirror.node is not None]
        return next(iter(answering + written), None)

    @property
    def has_more(self) -> bool:
        """True if the file has hosts or keys that `spegel-py configuration` did not write."""
        return any(mirror.node is None for mirror in self.mirrors) or self.has_keys

    has_keys: bool = False
    """True if the file has keys beside `server` and `host`, such as certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentState:
    """The content store, as seen from here and as containerd describes it."""

    problem: str = ""
    """Reason why the folder cannot be used."""
    advice: str = ""
    """Advice against the problem."""
    root: Path | None = None
    """Path of the store according to containerd."""
    is_root_readable: bool = False
    """True if `root` can be read here and has containerd's content."""
    sample: int | None = None
    """Number of containerd's blobs that were searched; None if it listed none."""
    found: int = 0
    """Number of blobs in the sample that can be read here."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer, as the running node reports it."""

    id: str
    address: str
    skew: float | None
    """Seconds that the peer's clock was ahead at the connection; None if unknown."""
    date: float | None = None
    """Seconds that the peer's Date header is ahead now, within 1 s; None if it was not asked."""
    has_proofs: bool = False
    """True if the peer told the node a key for proofs."""
    has_tls: bool = False
    """True if the peer can be asked by TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysState:
    """The keys of the cluster that the running node uses.

    `fingerprints` stand for the keys, the one that the node uses itself first. `fault` is why the
    file cannot be read now. `clear` is the number of peers without a key.
    """

    file: str
    mode: str
    fingerprints: tuple[str, ...]
    fault: str
    is_public: bool
    clear: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The state that the running node reports."""

    version: str
    uptime: float
    """Seconds since the start."""
    ready: bool
    reason: str | None
    """Reason why the node is not ready."""
    peers: tuple[PeerState, ...]
    tags: int
    digests: int
    """Numbers of tags and digests that the node advertises."""
    content: str = ""
    """The node's own sentence about how it reads its content; empty for older nodes."""
    is_content_well: bool = True
    others: str = ""
    """The node's own sentence about images in other namespaces; empty if there are none."""
    floor: int = 0
    """Replicas of each image that are wanted; 0 if the node keeps none."""
    keepers: int = 0
    """Nodes that keep replicas, this one included."""
    disk: float = 0.0
    """Share of the content's disk that is in use."""
    keys: KeysState | None = None
    """The cluster's keys; None if the node has none."""
    proofs: str = "off"
    """The mode of proofs between peers; off for older nodes."""
    tls: TlsState | None = None
    """The certificates between peers; None if the node has none."""
    token: TokenState | None = None
    """The runtime's tokens; None if the node goes by names."""
    private: tuple[tuple[str, str], ...] | None = None
    """The registries that cannot be asked about private images, each with the reason; None if the
    node asks none."""
    preheat: PreheatState | None = None
    """What the node says of pre-heating; None for older nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsState:
    """The certificates between peers that the running node uses.

    `fault` is why the folder cannot be used now. `left` are the seconds until the certificate ends,
    and `is_late` is True if it should have been renewed.
    """

    folder: str
    mode: str
    fingerprint: str
    fault: str
    is_public: bool
    left: float
    is_late: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """The token file of the running node. `fingerprints` stand for the tokens, newest first."""

    file: str
    fingerprints: tuple[str, ...]
    fault: str
    is_public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PreheatState:
    """The node's pre-heating.

    Args:
        faults: texts by the file or the image.
        list: the file of the list; empty for none.
        socket: the control socket; empty for none.
    """

    faults: tuple[tuple[str, str], ...] = ()
    list: str = ""
    socket: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """The mirror's response for one blob that containerd holds.

    Without a digest, containerd held no blob to ask for.
    """

    digest: Digest | None = None
    status: int = 0
    size: int = 0
    is_right: bool = False
    """True if the bytes match the digest."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All facts.

    None means that a fact was not looked for, or has no meaning without another fact.
    """

    subject: Subject
    version: str | Unknown | None = None
    cri: CriStatus | Unknown | None = None
    file: FileSettings | Unknown | None = None
    hosts: tuple[HostsFile, ...] | Unknown | None = None
    proxy: ProxySettings | Unknown | None = None
    set_aside: tuple[str, ...] | Unknown | None = None
    """Registries whose own settings are in the backup of the hosts.toml folder."""
    closed: tuple[tuple[str, str, bool], ...] = ()
    """The URLs at which the runtime's port must not answer, each with what came, and whether it is
    an answer."""
    content: ContentState | Unknown | None = None
    node: NodeState | Unknown | None = None
    pull: Pull | Unknown | None = None
