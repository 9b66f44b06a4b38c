"""Plain hosts, on which the commands of the guides run as they are written.

A host is a network namespace with an address of its own, and a mount namespace in which /etc, /opt,
/root, /run and /var are the machine's with changes of the host's own. The machine itself is not
changed. Each host runs containerd at its usual paths, or at others.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.containerd import CONTAINERD
from tests.support.lab import Registry
from tests.support.namespaces import Namespace, network
from tests.support.processes import CommandFailed, Process, run

PROGRAMS = Path(__file__).parents[2] / ".venv" / "programs"
"""A folder with programs that no package brings: crictl."""

_BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for each in {overlays}; do
    mkdir -p "$1/$each/upper" "$1/$each/work"
    changes="upperdir=$1/$each/upper,workdir=$1/$each/work"
    mount -t overlay overlay -o "lowerdir=/$each,$changes" "/$each"
done
rm -rf /run/containerd /var/lib/containerd /etc/containerd /opt/spegel-py /etc/spegel-py \\
    /var/lib/spegel-py
mkdir -p "$2" /var/lib/containerd
mount --bind "$2" /var/lib/containerd
touch "$1/booted"
{end}
"""

CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  enable_selinux = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certs}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerdPaths:
    """The paths of a host's containerd; by default those of its packages."""

    root: str = "/var/lib/containerd"
    state: str = "/run/containerd"
    socket: str = "/run/containerd/containerd.sock"
    config: str = "/etc/containerd/config.toml"
    certs: str = "/etc/containerd/certs.d"


K3S = ContainerdPaths(
    root="/var/lib/rancher/k3s/agent/containerd",
    state="/run/k3s/containerd",
    socket="/run/k3s/containerd/containerd.sock",
    config="/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    certs="/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
)


class PlainHost:
    """One host; commands run in it as in a shell of root's, in the folder `checkout`."""

    boot = _BOOT.format(end="exec sleep infinity", overlays="etc opt root run var")
    """The script of its first process, whose arguments are two folders: for its changes, and for
    the files of containerd.
    """

    search_path = os.environ["PATH"]
    """The folders in which a person's shell finds programs."""

    @staticmethod
    def enter(_: Namespace) -> tuple[str, ...]:
        """Return the beginning of the command that boots the host: its own namespaces."""
        return ("unshare", "--mount")

    def __init__(
        self, *, folder: Path, namespace: Namespace, checkout: Path, paths: ContainerdPaths
    ) -> None:
        folder.mkdir(parents=True)
        self.address = namespace.address
        self.paths = paths
        self._folder = folder
        self._namespace = namespace
        self._checkout = checkout
        self._changes = folder / "changes"
        self._changes.mkdir()
        self._boot = Process(
            command=[
                *self.enter(namespace),
                *("sh", "-c", self.boot, "host", str(self._changes), str(folder / "containerd")),
            ],
            log=folder / "boot.log",
        )
        self._containerd: Process | None = None
        self._has_booted = False

    def __repr__(self) -> str:
        return f"<PlainHost {self.address}>"

    def prefix(self, *, needs_internet: bool = False) -> tuple[str, ...]:
        """Return a command's beginning; with the internet it has the machine's own network."""
        network = () if needs_internet else (f"--net=/run/netns/{self._namespace.name}",)
        return ("nsenter", *self.namespaces(self._boot.pid), *network)

    @staticmethod
    def namespaces(first: int | None) -> tuple[str, ...]:
        """Return the flags with which nsenter finds the host's own namespaces."""
        return (f"--mount=/proc/{first}/ns/mnt",)

    async def start(self, certificate: Path, names: Mapping[str, str]) -> None:
        """Start the host and its containerd. It trusts a certificate, and knows names."""

        async def has_booted() -> bool:
            try:
                await run(*self.prefix(), "test", "-e", f"{self._changes}/booted")
            except CommandFailed:
                return False
            return True

        await self._boot.start(has_booted)
        self._has_booted = True
        listed = "".join(f"{address} {name}\\n" for name, address in names.items())
        paths = self.paths
        await self.shell(
            f"printf '\\n{listed}' >>/etc/hosts\n"
            f"cat {certificate} >>/etc/ssl/certs/ca-certificates.crt\n"
            f"mkdir -p {Path(paths.config).parent} {paths.certs} {Path(paths.socket).parent}\n"
            f"cat >{paths.config} <<'END'\n{CONFIG.format(**_fields(paths))}END\n"
        )
        await self.start_containerd()

    async def start_containerd(self) -> None:
        """Start containerd, and wait until it answers."""
        self._containerd = Process(
            command=[*self.prefix(), CONTAINERD, "--config", self.paths.config],
            log=self._folder / "containerd.log",
        )
        await self._containerd.start(self.is_serving, deadline=60.0)

    async def stop(self) -> None:
        """End everything on the host, also what a page's commands have left behind."""
        if self._containerd is not None:
            await self._containerd.end()
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._boot.end()

    async def shell(
        self, code: str, *, needs_internet: bool = False, deadline: float = 300.0
    ) -> str:
        """Run commands as a person types them; returns what they print. Raises CommandFailed."""
        return await run(
            *self.prefix(needs_internet=needs_internet),
            *("bash", "-ec", f"cd {self._checkout}\n{code}"),
            deadline=deadline,
            environment={"HOME": "/root", "PATH": f"{PROGRAMS}:{self.search_path}"},
        )

    async def tree(self, *folders: str) -> str:
        """Return each file below the folders with its rights, owner and content."""
        return await self.shell(
            f"for each in {' '.join(folders)}; do [ ! -e $each ] || {{\n"
            "find $each -printf '%p %y %m %u %g %l\\n'; find $each -type f -exec sha256sum {} +\n"
            "}; done | sort"
        )

    def _processes(self) -> set[int]:
        """Return the processes on the host, without its first one.

        They are those in its mount namespace, if it has one of its own yet.
        """
        if self._boot.pid is None or not self._has_booted:
            return set()
        mounts = _mounts_of(self._boot.pid)
        if mounts == _mounts_of(os.getpid()):
            raise AssertionError("the host has the machine's own mounts")
        return _processes_in(mounts) - {self._boot.pid}

    async def is_serving(self) -> bool:
        try:
            await self.shell(f"ctr -a {self.paths.socket} version")
        except CommandFailed:
            return False
        return True


def _mounts_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())


def _processes_in(mounts: str) -> set[int]:
    """Return the processes of a mount namespace."""
    found = set()
    for path in Path("/proc").iterdir():
        with suppress(OSError):  # a process that has just ended
            if path.name.isdigit() and _mounts_of(int(path.name)) == mounts:
                found.add(int(path.name))
    return found


def _fields(paths: ContainerdPaths) -> dict[str, str]:
    return {name: getattr(paths, name) for name in ("root", "state", "socket", "certs")}


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for a name, and its key; returns both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(
            subject, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "registry.crt", folder / "registry.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@dataclass(frozen=True, slots=True)
class PlainHosts:
    """Hosts by their addresses, and a registry with TLS that they know by its name."""

    hosts: Mapping[str, PlainHost]
    registry: Registry


@asynccontextmanager
async def plain_hosts(
    *addresses: str,
    folder: Path,
    checkout: Path,
    registry: str = "registry.example",
    paths: ContainerdPaths | None = None,
    kind: type[PlainHost] = PlainHost,
) -> AsyncIterator[PlainHosts]:
    """Start hosts with containerd and a registry; everything is ended and removed at the end.

    The registry's address is the last one of the hosts' network but four.
    """
    subnet = addresses[0].rpartition(".")[0]
    at = f"{subnet}.250"
    async with AsyncExitStack() as stack:
        folder.mkdir(parents=True)
        names = {f"h{number}": address for number, address in enumerate(addresses)}
        machines = await stack.enter_async_context(network({**names, "reg": at}))
        served = Registry(
            folder=folder / "registry",
            namespace=machines["reg"],
            address=f"{at}:443",
            certificate=make_certificate(folder, registry),
        )
        stack.push_async_callback(served.stop)
        hosts = {
            address: kind(
                folder=folder / name,
                namespace=machines[name],
                checkout=checkout,
                paths=paths or ContainerdPaths(),
            )
            for name, address in names.items()
        }
        for host in hosts.values():
            stack.push_async_callback(host.stop)
        certificate = folder / "registry.crt"
        await asyncio.gather(
            served.start(), *(host.start(certificate, {registry: at}) for host in hosts.values())
        )
        yield PlainHosts(hosts, served)


__all__ = ["K3S", "ContainerdPaths", "PlainHost", "PlainHosts", "plain_hosts"]
