"""The cluster: a control plane, a registry and nodes, and what tests do with them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from spegel_py import __version__
from spegel_py.oci import build as oci
from tests.deploy.chart import CHART, merged
from tests.kubernetes import addresses
from tests.kubernetes.api import ApiError
from tests.kubernetes.built import Built, build
from tests.kubernetes.cgroups import Cgroup
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.node import Node
from tests.support import images
from tests.support.lab import Registry, total
from tests.support.namespaces import Namespace, network
from tests.support.processes import CommandFailed, run, until

NAMESPACE = "spegel"
RELEASE = "spegel-py"
PAUSE = f"{addresses.REGISTRY}/pause:1"
IMAGE = f"{addresses.REGISTRY}/spegel-py:{__version__}"

DEFAULTS: Mapping[str, Any] = {
    "image": {"repository": f"{addresses.REGISTRY}/spegel-py"},
    # The registry speaks plain HTTP, which each node's certs.d says before spegel-py is installed.
    "spegel": {"mirroredRegistries": [f"http://{addresses.REGISTRY}"], "prependExisting": True},
}
"""The chart's values in these tests; all others are the chart's own."""

CONTAINERDS = (None, "1.7.35", "2.4.2")
"""Versions of containerd on the nodes in turn; None is the installed one."""

_NEVER = "1970-01-01T00:00:00Z"

READY_DEADLINE = 120.0
"""Seconds for the nodes to become Ready. An idle machine needs 7, one with much other work 60."""


NEEDED_MEMORY = 10 << 30
"""Bytes of free memory that let the cluster keep its disks in memory. They take about 2 GB, the
programs 3 GB."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster; `start_cluster` makes it and takes it away."""

    folder: Path
    built: Built
    control_plane: ControlPlane
    registry: Registry
    nodes: list[Node]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step of the start took, counted from its beginning."""

    def name(self, repository_and_tag: str) -> str:
        """Return the full reference of e.g. `test/app:1` in the cluster's registry."""
        return f"{addresses.REGISTRY}/{repository_and_tag}"

    async def kubectl(
        self, *arguments: str, stdin: str | None = None, deadline: float = 60.0
    ) -> str:
        """Run kubectl as the administrator and return its standard output."""
        command = [*self._prefix("kubectl"), *arguments]
        return await _execute(command, environment=self.environment, stdin=stdin, deadline=deadline)

    async def get_json(self, *arguments: str, deadline: float = 60.0) -> Any:
        """Return what `kubectl get` finds, as in `get_json("nodes")`."""
        return json.loads(await self.kubectl("get", *arguments, "--output=json", deadline=deadline))

    async def apply(self, manifests: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Create or change one object or several."""
        several = [manifests] if isinstance(manifests, Mapping) else manifests
        text = yaml.safe_dump_all([dict(each) for each in several])
        await self.kubectl("apply", "--filename=-", stdin=text)

    async def helm(
        self, *arguments: str, values: Mapping[str, Any] | None = None, deadline: float = 300.0
    ) -> str:
        """Run Helm as the administrator and return its standard output."""
        command = [*self._prefix("helm"), *arguments]
        if values is None:
            return await _execute(command, environment=self.environment, deadline=deadline)
        text = yaml.safe_dump(dict(values))
        command.append("--values=-")
        return await _execute(command, environment=self.environment, stdin=text, deadline=deadline)

    async def install(
        self, values: Mapping[str, Any] | None = None, *, deadline: float = 300.0
    ) -> float:
        """Install the chart, or upgrade it, and return the seconds until every pod is ready.

        Args:
            values: Laid over DEFAULTS.
            deadline: Seconds until it counts as failed.
        """
        began = time.monotonic()
        await self.helm(
            *(
                "upgrade",
                "--install",
                RELEASE,
                str(CHART),
                f"--namespace={NAMESPACE}",
                "--create-namespace",
            ),
            values=merged(DEFAULTS, values or {}),
            deadline=deadline,
        )
        await self.rollout(deadline=deadline)
        return time.monotonic() - began

    async def rollout(self, *, deadline: float = 300.0) -> None:
        """Wait until spegel-py's pods are up to date and ready on every node."""
        which = (f"--namespace={NAMESPACE}", "rollout", "status", f"daemonset/{RELEASE}")
        try:
            await self.kubectl(*which, f"--timeout={deadline:.0f}s", deadline=deadline + 10)
        except CommandFailed as error:
            raise AssertionError(f"{error}\n{await self._state(NAMESPACE)}") from error

    async def uninstall(self, *, deadline: float = 300.0) -> float:
        """Uninstall the chart and return the seconds it took."""
        began = time.monotonic()
        which = (
            "uninstall",
            RELEASE,
            f"--namespace={NAMESPACE}",
            "--wait",
            f"--timeout={deadline:.0f}s",
        )
        await self.helm(*which, deadline=deadline + 10)
        return time.monotonic() - began

    async def run_pod(
        self,
        name: str,
        node: Node,
        image: str,
        *,
        pull_policy: str = "IfNotPresent",
        pull_secret: str | None = None,
        namespace: str = "default",
        deadline: float = 60.0,
    ) -> float:
        """Run a pod on a node and return the seconds from its creation until it is Ready.

        The failure holds the pod's events.
        """
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node.name},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": pull_policy,
                    "command": ["sleep", "3600"],
                }
            ],
        }
        if pull_secret:
            spec["imagePullSecrets"] = [{"name": pull_secret}]
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        began = time.monotonic()
        path = f"/api/v1/namespaces/{namespace}/pods"
        await self.control_plane.api.create(path, manifest)
        try:
            await until(
                lambda: self._is_ready(f"{path}/{name}"),
                deadline=deadline,
                pause=0.05,
            )
        except TimeoutError as error:
            raise AssertionError(
                f"pod {name} of {image} on {node.name} is not Ready after {deadline:.0f} s:\n"
                + "\n".join(await self.events(name, namespace=namespace))
            ) from error
        return time.monotonic() - began

    async def delete_pod(
        self, name: str, *, namespace: str = "default", deadline: float = 60.0
    ) -> None:
        """Delete a pod and wait until it is gone."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"

        async def is_gone() -> bool:
            try:
                await self.control_plane.api.get(path)
            except ApiError as error:
                return error.status == 404
            return False

        await self.control_plane.api.delete(path)
        await until(is_gone, deadline=deadline, pause=0.05)

    async def events(self, name: str, *, namespace: str = "default") -> list[str]:
        """Return the events of an object, the oldest first, as in `Pulling: Pulling image …`."""
        path = f"/api/v1/namespaces/{namespace}/events"
        found = await self.control_plane.api.get(path, fieldSelector=f"involvedObject.name={name}")
        return [
            f"{each['reason']}: {each['message']}"
            for each in sorted(
                found["items"], key=lambda each: str(each["metadata"]["creationTimestamp"])
            )
        ]

    async def push(self, repository_and_tag: str, image: oci.Image | Path) -> str:
        """Push an image, or the only image of an OCI layout folder; return its full reference."""
        reference = self.name(repository_and_tag)
        if isinstance(image, Path):
            await self.registry.push_layout(reference, image)
        else:
            await self.registry.push(reference, image)
        return reference

    async def spegel_pod(self, node: Node) -> str:
        """Return the name of spegel-py's pod on a node."""
        found = await self.control_plane.api.get(
            f"/api/v1/namespaces/{NAMESPACE}/pods",
            labelSelector="app.kubernetes.io/component=spegel",
            fieldSelector=f"spec.nodeName={node.name}",
        )
        living = [each for each in found["items"] if "deletionTimestamp" not in each["metadata"]]
        (pod,) = living
        return str(pod["metadata"]["name"])

    async def exec_in_spegel(self, node: Node, *command: str, deadline: float = 60.0) -> str:
        """Run a command in spegel-py's container on a node and return its standard output."""
        pod = await self.spegel_pod(node)
        where = (f"--namespace={NAMESPACE}", "exec", pod, "--container=registry", "--")
        return await self.kubectl(*where, *command, deadline=deadline)

    async def metric(self, node: Node, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels, as spegel-py's pod on a node
        exports them.
        """
        pod = await self.spegel_pod(node)
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:9090/proxy/metrics"
        return total(await self.kubectl("get", "--raw", path), name, **labels)

    async def until_ready(self, *nodes: Node, deadline: float = READY_DEADLINE) -> None:
        """Wait until these nodes are Ready, or all nodes if none is named.

        A node that was switched off counts only once its new kubelet has reported it. The failure
        holds the kubelets' logs.
        """
        wanted = nodes or tuple(self.nodes)

        async def are_ready() -> bool:
            each_ready = [
                await self._is_ready(f"/api/v1/nodes/{node.name}", since=node.booted_at)
                for node in wanted
            ]
            return all(each_ready)

        try:
            await until(are_ready, deadline=deadline, pause=0.1)
        except TimeoutError as error:
            logs = [f"{node.name}:\n{tail(node.logs / 'kubelet.log')}" for node in wanted]
            raise AssertionError("not every node is Ready\n" + "\n".join(logs)) from error

    def keep_logs(self, folder: Path) -> None:
        """Copy the logs of all programs and pods, before the cluster is taken away."""
        for node in self.nodes:
            shutil.copytree(node.logs, folder / node.name, symlinks=True, dirs_exist_ok=True)
            shutil.copy(node.folder / "node.log", folder / node.name)
        for log in [*self.control_plane.folder.glob("*.log"), self.registry.process.log]:
            shutil.copy(log, folder)

    def command(self, program: str) -> str:
        """Return the command line with which a shell uses `kubectl` or `helm` on this cluster."""
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join(["env", *settings, *self._prefix(program)])

    def _prefix(self, program: str) -> list[str]:
        paths = {"kubectl": [str(self.built.kube), "kubectl"], "helm": [str(self.built.helm)]}
        kubeconfig = self.control_plane.folder / "admin.kubeconfig"
        return [*self.control_plane.namespace.prefix, *paths[program], f"--kubeconfig={kubeconfig}"]

    @property
    def environment(self) -> dict[str, str]:
        """Variables for kubectl and Helm, which keep their caches in the home folder."""
        return {"HOME": str(self.folder)}

    async def _is_ready(self, path: str, *, since: float = 0.0) -> bool:
        """Return True if a pod or a node is there and Ready.

        Args:
            path: Its path in the API.
            since: A node must have sent its heartbeat at this time of the clock or later.
        """
        try:
            found = await self.control_plane.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        conditions = {each["type"]: each for each in found["status"].get("conditions", [])}
        ready = conditions.get("Ready", {"status": "Unknown"})
        if since and datetime.fromisoformat(
            ready.get("lastHeartbeatTime", _NEVER)
        ).timestamp() < int(since):
            return False
        return bool(ready["status"] == "True")

    async def _state(self, namespace: str) -> str:
        """Return the pods and events of a namespace, for a failure's text."""
        where = f"--namespace={namespace}"
        pods = await self.kubectl(where, "get", "pods", "--output=wide")
        events = await self.kubectl(where, "get", "events", "--sort-by=.metadata.creationTimestamp")
        return f"{pods}\n{events}"


@asynccontextmanager
async def start_cluster(
    *, nodes: int = 3, containerds: Sequence[str | None] = CONTAINERDS, parent: Path | None = None
) -> AsyncIterator[Cluster]:
    """Start a cluster and wait until its nodes are Ready. Everything is removed at the end.

    The registry has the images of the pods' sandboxes and of spegel-py; the chart is not installed.

    Args:
        nodes: How many.
        containerds: Versions of containerd for the nodes in turn; None is the installed one.
        parent: The folder for all files. None stands for the folder of temporary files, or for a
            file system in memory if NEEDED_MEMORY is free: the chart is then installed in 12 s
            instead of 34, and the cluster is removed in 1 s instead of 7.
    """
    versions = [containerds[number % len(containerds)] for number in range(nodes)]
    built = await build(versions)
    labels = {version: await _label(program) for version, program in built.containerds.items()}
    names = [f"node{number}" for number in range(1, nodes + 1)]
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="kubernetes-", dir=parent))
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, folder, ignore_errors=True)
        if parent is None and psutil.virtual_memory().available > NEEDED_MEMORY:
            stack.push_async_callback(_unmount, folder)
            await run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(folder))
        cgroup = Cgroup.own() / folder.name
        stack.push_async_callback(cgroup.remove)
        cgroup.create()
        machines = await stack.enter_async_context(
            network(
                {"cp": addresses.CONTROL_PLANE, "reg": addresses.REGISTRY.partition(":")[0]}
                | {name: addresses.node(number) for number, name in enumerate(names, 1)}
            )
        )
        await _route([machines[name] for name in names], [machines["cp"], machines["reg"]])
        control_plane = ControlPlane(
            folder=folder / "control-plane", namespace=machines["cp"], built=built, nodes=names
        )
        stack.push_async_callback(control_plane.end)
        registry = Registry(
            folder=folder / "registry", namespace=machines["reg"], address=addresses.REGISTRY
        )
        stack.push_async_callback(registry.stop)
        cluster = Cluster(
            folder=folder,
            built=built,
            control_plane=control_plane,
            registry=registry,
            nodes=[
                Node(
                    name=name,
                    number=number,
                    folder=folder / name,
                    namespace=machines[name],
                    cgroup=cgroup / name,
                    kube=built.kube,
                    containerd=built.containerds[version],
                    version=labels[version],
                    kubeconfigs={
                        "kubelet": control_plane.kubeconfig(f"system:node:{name}"),
                        "kube-proxy": control_plane.kubeconfig("system:kube-proxy"),
                    },
                    pause=PAUSE,
                )
                for number, (name, version) in enumerate(zip(names, versions, strict=True), 1)
            ],
        )
        control_plane.kubeconfig("admin")
        stack.push_async_callback(_power_off, cluster.nodes)
        await _start(cluster, began)
        yield cluster


async def _start(cluster: Cluster, began: float) -> None:
    """Start everything at once, as far as nothing waits for another."""
    is_up = asyncio.Event()

    def note(step: str) -> None:
        cluster.seconds[step] = time.monotonic() - began

    async def start_control_plane() -> None:
        await cluster.control_plane.start()
        note("control plane")
        is_up.set()
        await until(
            lambda: _exists(cluster, "/api/v1/namespaces/default/serviceaccounts/default"),
            deadline=60.0,
        )
        note("default service account")

    async def start_node(node: Node) -> None:
        await node.boot()
        note(f"{node.name} booted")
        await is_up.wait()
        await node.join()
        await cluster.until_ready(node)
        note(f"{node.name} Ready")

    async def fill_registry() -> None:
        await cluster.registry.start()
        program = oci.Executable(images.BUSYBOX.read_bytes())  # a layer that no other image has
        pause = oci.image([oci.layer({"bin/sleep": program})], command=("/bin/sleep", "2147483647"))
        await asyncio.gather(
            cluster.registry.push(PAUSE, pause),
            cluster.registry.push_layout(IMAGE, cluster.built.image),
        )
        note("images pushed")

    async with asyncio.TaskGroup() as group:
        group.create_task(start_control_plane())
        group.create_task(fill_registry())
        for node in cluster.nodes:
            group.create_task(start_node(node))


async def _exists(cluster: Cluster, path: str) -> bool:
    with suppress(ApiError):
        await cluster.control_plane.api.get(path)
        return True
    return False


async def _unmount(folder: Path) -> None:
    if folder.is_mount():
        await run("umount", "--lazy", str(folder))


async def _power_off(nodes: Sequence[Node]) -> None:
    failures = await asyncio.gather(*(node.power_off() for node in nodes), return_exceptions=True)
    for failure in failures:
        if failure is not None:
            raise failure


async def _route(nodes: Sequence[Namespace], others: Sequence[Namespace]) -> None:
    """Give every namespace its routes to all pods, and the nodes one for everything else.

    The latter leads nowhere; but a packet to a Service needs a route before kube-proxy turns it to
    a pod.
    """
    lines = [f"ip -n {node.name} route add default via {addresses.CONTROL_PLANE}" for node in nodes]
    for number, node in enumerate(nodes, 1):
        lines += [
            f"ip -n {each.name} route add {addresses.pods(number)} via {node.address}"
            for each in (*nodes, *others)
            if each is not node
        ]
    await run("sh", "-ec", "\n".join(lines))


async def _label(containerd: Path) -> str:
    """Return a containerd's version, as in 1.6.20 or 2.4.2."""
    words = (await run(str(containerd), "--version")).split()
    return words[2].removeprefix("v").partition("~")[0]


async def _execute(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: str | None = None,
    deadline: float,
) -> str:
    """Run a command to its end and return its standard output. A failure holds all its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(os.environ) | dict(environment),
    )
    try:
        async with asyncio.timeout(deadline):
            output, errors = await process.communicate(None if stdin is None else stdin.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        text = (output + errors).decode(errors="replace")
        raise CommandFailed(f"{' '.join(command)} failed with {process.returncode}:\n{text}")
    return output.decode(errors="replace")


def tail(log: Path, lines: int = 40) -> str:
    """Return the last lines of a log, or nothing if it is not there."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
