"""One node: a kubelet, a kube-proxy and a containerd, with namespaces and disks of their own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from spegel_py.errors import SpegelError
from spegel_py.store.containerd.grpc_client import Client
from tests.kubernetes import addresses
from tests.kubernetes.cgroups import Cgroup
from tests.support.cri.client import Cri
from tests.support.namespaces import Namespace
from tests.support.processes import Process, run, until

_SCRIPT = Path(__file__).with_name("node.sh")

_ENTER = 'for folder in $FOLDERS; do echo $$ >"$folder/cgroup.procs"; done; exec "$@"'
"""Joins the node's cgroup, and then becomes the command after it."""

_SHARES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
"""The namespaces that a command on the node enters."""

_CONFIG_1 = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # No process here may lower its oom_score_adj, which runc refuses to start a sandbox without
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    discard_unpacked_layers = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"""

_CONFIG_2 = """\
version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  discard_unpacked_layers = false
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # No process here may lower its oom_score_adj, which runc refuses to start a sandbox without
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
"""

_HOSTS_TOML = """\
server = "http://{registry}"
[host."http://{registry}"]
  capabilities = ["pull", "resolve"]
"""


class Node:
    """One machine of the cluster. `power_off` cuts its power; `start` then finds the same disks.

    Args:
        name: Its name, in Kubernetes too.
        number: Its number, which gives its addresses; the first node has number 1.
        folder: Its disks, configuration and logs.
        namespace: Its network namespace, which outlives a power cut.
        cgroup: Its own cgroup, which it makes at each start.
        kube: The program of Kubernetes.
        containerd: The program of containerd.
        version: The version of that containerd, as a label.
        kubeconfigs: The kubeconfig files for `kubelet` and `kube-proxy`.
        pause: The image of the pods' sandboxes.
    """

    def __init__(
        self,
        *,
        name: str,
        number: int,
        folder: Path,
        namespace: Namespace,
        cgroup: Cgroup,
        kube: Path,
        containerd: Path,
        version: str,
        kubeconfigs: Mapping[str, Path],
        pause: str,
    ) -> None:
        self.name = name
        self.folder = folder
        self.namespace = namespace
        self.address = namespace.address
        self.containerd = version
        self.certs = folder / "etc" / "containerd" / "certs.d"
        self.logs = folder / "var" / "log"
        self.booted_at = 0.0
        """Time of the last start, in seconds of time.time()."""
        self._cgroup = cgroup
        self._first: int | None = None
        folder.mkdir()
        self._write(number, kubeconfigs, pause)
        self._process = Process(
            command=[
                *(
                    "sh",
                    "-ec",
                    _ENTER,
                    "enter",
                    *namespace.prefix,
                    "unshare",
                    *_SHARES[:2],
                    *_SHARES[3:],
                ),
                *("--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
                *("bash", str(_SCRIPT), name, self.address, str(folder)),
            ],
            log=folder / "node.log",
            environment={
                "FOLDERS": " ".join(str(each) for _, each in cgroup.folders),
                "CGROUPS": " ".join(cgroup.hierarchies),
                "CONTAINERD": str(containerd),
                "DNS": addresses.CONTROL_PLANE,
                "KUBE": str(kube),
            },
        )

    def __repr__(self) -> str:
        return f"<Node {self.name} containerd={self.containerd}>"

    async def start(self) -> None:
        """Switch the node on: containerd, the kubelet and kube-proxy are started."""
        await self.boot()
        await self.join()

    async def boot(self) -> None:
        """Switch the node on and start containerd alone, which needs no control plane."""
        self._cgroup.create()
        self.booted_at = time.time()
        await self._process.start(self._has_booted, deadline=30.0)
        await self.start_containerd()

    async def join(self) -> None:
        """Start the kubelet and kube-proxy, which join the cluster."""
        for service in ("kubelet", "kube-proxy"):
            self._order(service)
            await until(self._runs(service), deadline=20.0)

    async def restart_kubelet(self, settings: Mapping[str, Any]) -> None:
        """Kill the kubelet, and start it with other settings; pods go on."""
        old = self.service("kubelet")
        (self.folder / "kubelet.json").write_text(json.dumps({**_KUBELET, **settings}))
        os.kill(old, signal.SIGKILL)

        async def has_ended() -> bool:
            return old not in dict(self._services()).values()

        await until(has_ended, deadline=10.0)
        self._order("kubelet")
        await until(self._runs("kubelet"), deadline=20.0)

    async def power_off(self) -> None:
        """Cut the power: kill every process at once. The disks stay, everything else is lost."""
        if self._process.pid is None:
            return
        first, self._first = self._first, None
        if first is not None:
            os.kill(first, signal.SIGKILL)
            await until(self._is_off, deadline=20.0)
        # A first process that has not booted is killed together with `unshare`.
        await self._process.end(signal.SIGKILL)
        await self._cgroup.remove()
        clean = "ip link del cni0 2>/dev/null || true; nft flush ruleset"
        await run(*self.namespace.prefix, "sh", "-ec", clean)

    async def forget(self) -> None:
        """Empty the node's disks, while it is off: what starts then is a new machine with the same
        configuration.
        """
        for name in ("containerd", "kubelet", "cni", "spegel"):
            await asyncio.to_thread(shutil.rmtree, self.folder / "var" / "lib" / name)

    async def run(self, *command: str, deadline: float = 60.0) -> str:
        """Run a command on the node to its end and return its output, which a failure holds."""
        return await run(
            "nsenter", f"--target={self.first_process}", *_SHARES, "--", *command, deadline=deadline
        )

    async def start_containerd(self) -> None:
        """Start containerd and wait until it answers."""
        self._order("containerd")
        await until(self._containerd_answers, deadline=30.0)

    async def kill_containerd(self, number: int = signal.SIGKILL) -> None:
        """End containerd alone and leave it off; containers go on."""
        os.kill(self.service("containerd"), number)

        async def has_ended() -> bool:
            return "containerd" not in dict(self._services())

        await until(has_ended, deadline=30.0)

    async def restart_containerd(self) -> None:
        """Restart containerd as `systemctl restart` does; containers go on."""
        await self.kill_containerd(signal.SIGTERM)
        await self.start_containerd()

    async def set_config_path(self, folders: str) -> None:
        """Have containerd look for hosts.toml files in these folders, and restart it; "" is as if
        nothing was set.
        """
        config = self.folder / "etc" / "containerd" / "config.toml"
        config.write_text(
            re.sub(r'config_path = ".*"', f'config_path = "{folders}"', config.read_text())
        )
        await self.restart_containerd()

    async def unplug(self) -> None:
        """Pull the network cable."""
        await self.namespace.plug(is_in=False)

    async def plug(self) -> None:
        """Put the network cable back."""
        await self.namespace.plug(is_in=True)

    async def ctr(self, *arguments: str, deadline: float = 60.0) -> str:
        """Run `ctr` in the namespace of Kubernetes and return its output."""
        return await self.run("ctr", "--namespace", "k8s.io", *arguments, deadline=deadline)

    async def ctr_pull(
        self, reference: str, *, hosts: str = "/etc/containerd/certs.d", deadline: float = 120.0
    ) -> float:
        """Pull an image through the mirrors of a folder of hosts.toml files, and return the seconds
        it took.
        """
        began = time.monotonic()
        await self.ctr("images", "pull", "--hosts-dir", hosts, reference, deadline=deadline)
        return time.monotonic() - began

    def cri(self) -> Cri:
        """Return the image service that the kubelet uses."""
        return Cri(socket=Path(f"/proc/{self.first_process}/root/run/containerd/containerd.sock"))

    async def forget_image(self, reference: str) -> None:
        """Remove an image under all names of its repository, with the content only it has."""
        named = reference.partition("@")[0]
        repository = named if "@" in reference else named.rpartition(":")[0]
        names = (await self.ctr("images", "ls", "-q")).split()
        for name in names:
            if name == reference or name.startswith((f"{repository}:", f"{repository}@")):
                await self.ctr("images", "rm", "--sync", name)

    @property
    def is_on(self) -> bool:
        """True while the node has power."""
        return self._first is not None

    @property
    def first_process(self) -> int:
        """The id of the node's first process, as the machine knows it."""
        assert self._first is not None, f"{self.name} is off"
        return self._first

    def service(self, name: str) -> int:
        """Return the id of a service's process, as in `service("kubelet")`.

        Raises:
            KeyError: It does not run.
        """
        return dict(self._services())[name]

    def spegel_pid(self) -> int:
        """Return the id of spegel-py's process in this node's pod, as the machine knows it.

        Raises:
            LookupError: It does not run.
        """
        found = [pid for pid in self._cgroup.processes() if _is_spegel(_arguments(pid))]
        if not found:
            raise LookupError(f"spegel-py does not run on {self.name}")
        return max(found, key=_started)

    def _services(self) -> Iterator[tuple[str, int]]:
        """Yield the running services with their processes, which are children of the first one."""
        first = self.first_process
        for pid in map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split()):
            command = _arguments(pid)
            name = Path(command[0]).name if command else ""
            yield (command[1] if name == "kube" else name), pid

    def _runs(self, service: str) -> Callable[[], Awaitable[bool]]:
        async def runs() -> bool:
            return service in dict(self._services())

        return runs

    async def _is_off(self) -> bool:
        return self._process.pid is None

    async def _has_booted(self) -> bool:
        """Return True once the first process waits for services to start."""
        runner = self._process.pid
        with suppress(OSError):
            for pid in Path(f"/proc/{runner}/task/{runner}/children").read_text().split():
                if Path(f"/proc/{pid}/root/run/services").is_fifo():
                    self._first = int(pid)
                    return True
        return False

    async def _containerd_answers(self) -> bool:
        """Return True if containerd answers and its service for the kubelet is there."""
        socket = Path(f"/proc/{self.first_process}/root/run/containerd/containerd.sock")
        if not socket.exists():
            return False
        try:
            async with Client(socket=socket, timeout=1.0) as client:
                await client.images()
        except SpegelError:
            return False
        return True

    def _order(self, service: str) -> None:
        """Have the first process start a service."""
        with Path(f"/proc/{self.first_process}/root/run/services").open("w") as services:
            services.write(f"{service}\n")

    def _write(self, number: int, kubeconfigs: Mapping[str, Path], pause: str) -> None:
        """Write the configuration of all services."""
        hosts = self.certs / addresses.REGISTRY / "hosts.toml"
        config = _CONFIG_1 if self.containerd.startswith("1.") else _CONFIG_2
        files = {
            self.folder / "etc/containerd/config.toml": config.format(pause=pause),
            self.folder / "etc/cni/net.d/10-test.conflist": json.dumps(_cni(number)),
            hosts: _HOSTS_TOML.format(registry=addresses.REGISTRY),
            self.folder / "kubelet.json": json.dumps(_KUBELET),
            self.folder / "kube-proxy.json": json.dumps(_kube_proxy(kubeconfigs["kube-proxy"])),
            self.folder / "kubelet.kubeconfig": kubeconfigs["kubelet"].read_text(),
        }
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "clusterDNS": [addresses.CONTROL_PLANE],
    "clusterDomain": "cluster.local",
    "cgroupDriver": "cgroupfs",
    "failSwapOn": False,
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "resolvConf": "/etc/resolv.conf",
    "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    "serializeImagePulls": False,
    # The machine's disk is not the node's: no image and no pod is removed for its sake.
    "imageGCHighThresholdPercent": 100,
    "imageGCLowThresholdPercent": 99,
    "evictionHard": {
        "memory.available": "100Mi",
        "nodefs.available": "1%",
        "imagefs.available": "1%",
        "nodefs.inodesFree": "1%",
        "imagefs.inodesFree": "1%",
    },
    "nodeStatusUpdateFrequency": "5s",
    "maxPods": 30,
}


def _kube_proxy(kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": addresses.PODS,
        # 0 leaves the machine's values as they are.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _cni(number: int) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": "test",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": addresses.pods(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def _arguments(pid: int) -> list[str]:
    """Return a process's command line; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _is_spegel(command: list[str]) -> bool:
    """Return True for `python …/spegel-py registry …`."""
    return len(command) > 2 and Path(command[1]).name == "spegel-py" and command[2] == "registry"


def _started(pid: int) -> int:
    """Return when a process was started, in ticks of the kernel's clock; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0
