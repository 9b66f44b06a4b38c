"""A cluster in a box: nodes with a real containerd each, and a real registry, in network namespaces
of their own.

It needs root and the packages containerd, docker-registry, skopeo, runc and iproute2; no systemd,
no Docker.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from prometheus_client.parser import text_string_to_metric_families

import spegel_py
from spegel_py.oci.build import Image
from tests.support import images
from tests.support.containerd import Daemon
from tests.support.cri.client import Cri
from tests.support.namespaces import Namespace, network
from tests.support.processes import Process, run, until

REGISTRY = "10.99.1.250:5000"
"""The registry's host and port, as they stand in references: `10.99.1.250:5000/test/app:1`."""

_REGISTRY_CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: '{address}'{tls}}}
"""

_PRIVATE = "auth: {{htpasswd: {{realm: private, path: {folder}/users}}}}\n"

_TOKENS = (
    "auth: {{token: {{realm: '{realm}', service: private, issuer: tests, "
    "rootcertbundle: {folder}/token.crt}}}}\n"
)

_USERS = {"somebody": ("s3cret", "$2b$04$TQg3p5YBK2MdmQ5ztHFZDOc99HNOAlx3ZyNU7e5Q3yUDG7l5aLC2G")}
"""Users of a private registry with their passwords, plain and as bcrypt hashes, which are cheap."""

_ACCESS = re.compile(r'^(\S+) - \S* \[[^\]]*\] "(\w+) (\S+) HTTP/[\d.]+" (\d+) (\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the registry's access log."""

    client: str
    method: str
    path: str
    status: int
    size: int


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, read whole; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Registry:
    """A docker-registry, which notes every request."""

    def __init__(
        self,
        *,
        folder: Path,
        namespace: Namespace,
        address: str = REGISTRY,
        is_private: bool = False,
        certificate: tuple[Path, Path] | None = None,
        realm: str = "",
    ) -> None:
        """Make its files; a private one with a `realm` wants tokens from there, signed by the
        key of `folder`/token.crt.
        """
        folder.mkdir(parents=True, exist_ok=bool(realm))
        self.folder = folder
        self.namespace = namespace
        self.address = address
        self.user, (self.password, hashed) = next(iter(_USERS.items()))
        """The only user of a private registry; another registry lets everybody in."""
        self.is_private = is_private
        (folder / "users").write_text(f"{self.user}:{hashed}\n")
        config = folder / "config.yml"
        config.write_text(
            (_REGISTRY_CONFIG + (_guarded(realm) if is_private else "")).format(
                folder=folder,
                realm=realm,
                address=address,
                tls=", tls: {{certificate: '{}', key: '{}'}}".format(*certificate)
                if certificate
                else "",
            )
        )
        self.process = Process(
            command=[*namespace.prefix, "docker-registry", "serve", str(config)],
            log=folder / "registry.log",
        )
        self._is_tls = certificate is not None
        self._seen = 0

    async def start(self) -> None:
        """Start it, with what it held before."""
        port = int(self.address.rpartition(":")[2])
        await self.process.start(
            lambda: (
                _listens(self.namespace, port)
                if self._is_tls
                else _answers(self.namespace, port, "/")
            )
        )
        self.forget()

    async def stop(self) -> None:
        """End it: connections are refused from now on."""
        await self.process.end()

    async def push(self, reference: str, image: Image, *, is_docker: bool = False) -> None:
        """Push an image under its full reference, as Docker schema 2 if asked for; no request of it
        is noted.
        """
        with tempfile.TemporaryDirectory() as folder:
            await asyncio.to_thread(
                images.write_layout, Path(folder) / "layout", {reference: image}
            )
            await self.push_layout(reference, Path(folder) / "layout", is_docker=is_docker)

    async def push_layout(self, reference: str, layout: Path, *, is_docker: bool = False) -> None:
        """Push the only image of an OCI layout folder as `push` does."""
        await run(
            *self.namespace.prefix,
            *("skopeo", "--insecure-policy", "copy", "-q", "--all", "--dest-tls-verify=false"),
            *(("--format", "v2s2") if is_docker else ()),
            *(("--dest-creds", f"{self.user}:{self.password}") if self.is_private else ()),
            f"oci:{layout}",
            f"docker://{reference}",
        )
        self.forget()

    def forget(self) -> None:
        """Begin a new page: `requests` counts from here."""
        self._seen = len(self.process.output)

    def requests(self, method: str | None = None) -> list[Request]:
        """Return what was asked of it since the last `forget`, in the order in which the answers
        ended.
        """
        found = [
            Request(client, verb, path, int(status), int(size))
            for client, verb, path, status, size in _ACCESS.findall(
                self.process.output[self._seen :]
            )
        ]
        return [one for one in found if method is None or one.method == method]


def _guarded(realm: str) -> str:
    return _TOKENS if realm else _PRIVATE


class Node:
    """One machine: its containerd, and spegel-py beside it once it is started."""

    def __init__(
        self,
        *,
        folder: Path,
        namespace: Namespace,
        bootstrap: str,
        discards_layers: bool = False,
        part: int = 0,
    ) -> None:
        self.folder = folder
        self.namespace = namespace
        self.address = namespace.address
        self.daemon = Daemon(
            folder=folder, prefix=namespace.prefix, discards_layers=discards_layers, part=part
        )
        self.cri = Cri(socket=self.daemon.socket)
        self._bootstrap = bootstrap
        self.spegel: Process | None = None
        self.under: Sequence[str] = ()
        """Put before spegel-py's command, to run it with fewer rights."""
        self.program = "spegel_py"
        """The module that is run: another one may lay hands on the node in it."""

    def __repr__(self) -> str:
        return f"<Node {self.address}>"

    async def start_spegel(self, **flags: str | None) -> Process:
        """Start spegel-py and wait until it is live; `flags` change its flags, as in
        log_level="WARNING".

        A flag that is None is left out. Its log is `node.spegel.output`.
        """
        given = self.flags() | flags
        options = [
            text
            for name, value in given.items()
            if value is not None
            for text in (f"--{name.replace('_', '-')}", value)
        ]
        self.spegel = Process(
            command=[
                *self.namespace.prefix,
                *self.under,
                sys.executable,
                "-m",
                self.program,
                "registry",
                *options,
            ],
            log=self.folder / "spegel.log",
            environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
        )
        await self.spegel.start(lambda: _answers(self.namespace, 5000, "/livez"), deadline=30.0)
        return self.spegel

    def flags(self) -> dict[str, str | None]:
        """Return the flags that `start_spegel` gives by itself."""
        return {
            "containerd_sock": str(self.daemon.socket),
            "containerd_content_path": str(self.daemon.content_path),
            "registry_addr": ":5000",
            "router_addr": ":5001",
            "metrics_addr": ":9090",
            "bootstrap_kind": "static",
            "static_bootstrap_peers": f"/ip4/{self._bootstrap}/tcp/5001",
            "data_dir": str(self.folder / "data"),
            "log_format": "json",
            "log_level": "DEBUG",
        }

    async def answers(self, path: str) -> bool:
        """Say whether what listens at the registry port answers a path with 200; nobody may."""
        try:
            return (await self.get(path)).status == 200
        except OSError:
            return False

    def write_hosts_toml(
        self, *, mirror: str | None, registry: str = REGISTRY, server: str | None = None
    ) -> None:
        """Let containerd ask `mirror` (a URL; None for no mirror) before `server`, by default the
        registry itself.
        """
        folder = self.daemon.certs / registry
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f'server = "{server or f"http://{registry}"}"']
        # containerd 1.6 refuses a file without a host table, even an empty one
        lines += (
            [f'[host."{mirror}"]', '  capabilities = ["pull", "resolve"]'] if mirror else ["[host]"]
        )
        (folder / "hosts.toml").write_text("\n".join(lines) + "\n")

    async def ctr_pull(self, reference: str, *options: str, deadline: float = 120.0) -> str:
        """Pull as people do; containerd asks the mirror of `write_hosts_toml`."""
        hosts = ("--hosts-dir", str(self.daemon.certs))
        return await self.daemon.ctr(
            "images", "pull", *hosts, *options, reference, deadline=deadline
        )

    async def get(
        self,
        path: str,
        *,
        port: int = 5000,
        host: str | None = None,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        timeout: float = 10.0,
    ) -> Response:
        """Ask something over HTTP from this node, of itself unless `host` is given."""
        return await fetch(
            self.namespace, host or self.address, port, path, method, headers or {}, timeout
        )


def total(metrics: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels, in Prometheus' text format."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@dataclass(frozen=True, slots=True)
class Lab:
    """The whole cluster."""

    registry: Registry
    nodes: list[Node]
    guests: dict[str, Namespace]
    """Further machines, on which nothing runs."""

    def name(self, repository_and_tag: str) -> str:
        """Return the full reference of e.g. `test/app:1` in the lab's registry."""
        return f"{REGISTRY}/{repository_and_tag}"


@asynccontextmanager
async def start_lab(
    *,
    nodes: int = 2,
    discards_layers: bool = False,
    part: int = 0,
    parent: Path | None = None,
    guests: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Lab]:
    """Start a registry and this many nodes, containerd running on each; everything is ended and
    removed at the end.

    `guests` are the names and addresses of further machines. containerd pulls from the registry
    directly until `write_hosts_toml` says otherwise. All files are below `parent`, or where
    temporary files belong.
    """
    names = {f"n{number}": f"10.99.1.{number}" for number in range(1, nodes + 1)}
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="lab-", dir=parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        addresses = {"reg": REGISTRY.partition(":")[0]} | names | dict(guests)
        machines = await stack.enter_async_context(network(addresses))
        registry = Registry(folder=folder / "reg", namespace=machines["reg"])
        stack.push_async_callback(registry.stop)
        cluster = [
            Node(
                folder=folder / name,
                namespace=machines[name],
                bootstrap=names["n1"],
                discards_layers=discards_layers,
                part=part,
            )
            for name in names
        ]
        for node in cluster:
            stack.push_async_callback(_end, node)
            node.write_hosts_toml(mirror=None)
        await asyncio.gather(registry.start(), *(node.daemon.start() for node in cluster))
        yield Lab(registry, cluster, {name: machines[name] for name in guests})


async def _end(node: Node) -> None:
    if node.spegel:
        await node.spegel.end()
    await node.daemon.stop()


async def _listens(namespace: Namespace, port: int) -> bool:
    try:
        (await namespace.connect(namespace.address, port, timeout=2.0)).close()
    except OSError:
        return False
    return True


async def _answers(namespace: Namespace, port: int, path: str) -> bool:
    try:
        return (await fetch(namespace, namespace.address, port, path, "GET", {}, 2.0)).status == 200
    except (OSError, http.client.HTTPException):
        return False


async def fetch(
    namespace: Namespace,
    host: str,
    port: int,
    path: str,
    method: str,
    headers: dict[str, str],
    timeout: float,
) -> Response:
    """Ask something over HTTP from a machine, and return the answer whole. Raises OSError."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = await namespace.connect(host, port, timeout=timeout)

    def ask() -> Response:
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, fields, answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


__all__ = [
    "REGISTRY",
    "Lab",
    "Node",
    "Registry",
    "Request",
    "Response",
    "fetch",
    "start_lab",
    "total",
    "until",
]
