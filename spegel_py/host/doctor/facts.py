"""What the checks judge: what was seen on this machine, without an opinion of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.store.containerd import CriStatus, ImageSettings

DEFAULT = "_default"
"""The folder whose hosts.toml is for every registry that has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The node that is examined, as its settings describe it."""

    socket: Path
    namespace: str
    content_path: Path | None
    containerd_config: Path = Path("/etc/containerd/config.toml")
    registry: str
    """URL of the node's registry, as this machine reaches it."""
    metrics: str
    """URL of its metrics page."""
    certs: Path | None = None
    """Folder that hosts.toml files are written to; None for whichever folder containerd searches."""
    registries: tuple[str, ...] = ()
    """Registries that are mirrored, as in references or as URLs; none means all."""
    filters: Filters = EVERYTHING
    is_in_pod: bool = False
    """Whether this runs in a pod, which sees only the machine's folders that are mounted."""
    authorization: str | None = field(default=None, repr=False)
    """The Authorization header that the registry wants."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why something could not be seen, and what would help, where that is known."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class FileSettings:
    """What containerd's configuration file says, imports included."""

    version: int
    images: ImageSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The proxies in the environment of containerd; empty for none."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    """URLs, which may hold a password."""
    exempt: str = ""
    """What is asked without a proxy, as NO_PROXY has it."""
    source: str
    """Where that was seen."""
    unit: str = "containerd.service"
    """The service that containerd is part of."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """One host of a hosts.toml."""

    url: str
    capabilities: frozenset[str]
    is_spegel: bool = False
    """Whether what answers there is spegel-py."""
    answer: str = "not asked"
    """What answers there, in a few words."""
    is_silent: bool = False
    """Whether it keeps whoever asks waiting: containerd waits for 30 s, or for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFile:
    """What containerd finds for a registry."""

    registry: str
    path: Path | None = None
    """The hosts.toml; None if there is none."""
    mirrors: tuple[Mirror, ...] = ()
    problem: str = ""
    """Why containerd cannot read it."""
    is_asked: bool = True
    """False for a registry that merely has a folder of its own, beside the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The content store, from here and as the daemon describes it."""

    problem: str = ""
    """Why the folder is of no use."""
    advice: str = ""
    """What helps against that."""
    root: Path | None = None
    """Where the daemon says it is."""
    sample: int | None = None
    """How many of the daemon's blobs were looked for; None if it did not list any."""
    found: int = 0
    """How many of them can be read here."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """A peer as the running node sees it."""

    id: str
    address: str
    skew: float | None
    """Seconds by which its clock was ahead when the two nodes connected; None if not known."""
    date: float | None = None
    """Seconds by which the Date of its answers is ahead now, within 1 s; None if it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What the running node tells of itself."""

    version: str
    uptime: float
    """Seconds."""
    ready: bool
    reason: str | None
    """Why it is not ready."""
    peers: tuple[PeerState, ...]
    tags: int
    digests: int
    """How many tags and digests it advertises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One blob that containerd holds, as the mirror answered for it; without a digest there was none to ask for."""

    digest: Digest | None = None
    status: int = 0
    size: int = 0
    is_right: bool = False
    """Whether the bytes are those of the digest."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was seen; None for what was not looked at, or makes no sense without another fact."""

    subject: Subject
    version: str | Unknown | None = None
    cri: CriStatus | Unknown | None = None
    file: FileSettings | Unknown | None = None
    hosts: tuple[HostsFile, ...] | Unknown | None = None
    proxy: ProxySettings | Unknown | None = None
    set_aside: tuple[str, ...] | Unknown | None = None
    """Registries whose own settings wait in the backup of the folder of hosts.toml files."""
    content: Content | Unknown | None = None
    node: NodeState | Unknown | None = None
    pull: Pull | Unknown | None = None
