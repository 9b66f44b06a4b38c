"""The nodes on which the Pods of a DaemonSet are ready, as the Kubernetes API tells them.

Two GETs need no client library: Kubernetes mounts a token and a certificate into the Pod
(https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from spegel_py.errors import ConfigError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder at which Kubernetes mounts the Pod's service account."""

ANSWER_TIMEOUT = 5.0
"""Seconds for one response of the API server."""

UNKNOWN_NODE = "a node that is not known yet"


class ClusterError(Exception):
    """The API server gave no usable response; the text says why."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The progress of a DaemonSet: `wanted` nodes, and the names of ready and waiting ones."""

    wanted: int
    ready: frozenset[str]
    waiting: Mapping[str, str]
    """Nodes without a ready Pod, each with the reason."""

    @property
    def is_complete(self) -> bool:
        """True if the Pod of every node is ready."""
        return not self.waiting and len(self.ready) >= self.wanted

    def __str__(self) -> str:
        text = f"{len(self.ready)} of {self.wanted} nodes are done"
        waiting = [f"{node} ({reason})" for node, reason in sorted(self.waiting.items())]
        return f"{text}; not done: {', '.join(waiting)}" if waiting else text


class DaemonSet:
    """The DaemonSet `namespace`/`name`, read from the API server at `url`."""

    def __init__(
        self, *, session: aiohttp.ClientSession, url: str, namespace: str, name: str
    ) -> None:
        self._session = session
        self._url = url
        self._namespace = namespace
        self._name = name

    async def coverage(self) -> Coverage:
        """Return the DaemonSet's progress. Raises ClusterError."""
        found = await self._get(
            f"/apis/apps/v1/namespaces/{self._namespace}/daemonsets/{self._name}"
        )
        labels = found["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        pods = await self._get(f"/api/v1/namespaces/{self._namespace}/pods", labelSelector=selector)
        status = found.get("status", {})
        if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
            raise ClusterError(
                f"the DaemonSet {self._name} has not been looked at by Kubernetes yet"
            )
        return coverage(int(status["desiredNumberScheduled"]), pods["items"])

    async def _get(self, path: str, **query: str) -> Any:
        try:
            async with self._session.get(f"{self._url}{path}", params=query) as answer:
                if answer.status != 200:
                    raise ClusterError(
                        f"{path} answered {answer.status}: {(await answer.text())[:300]}"
                    )
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(
                f"the API server at {self._url} does not answer: {error or 'time-out'}"
            ) from error


def coverage(wanted: int, pods: Sequence[Mapping[str, Any]]) -> Coverage:
    """Return a DaemonSet's progress from the list of its Pods."""
    ready, waiting = set(), {}
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        conditions = {each["type"]: each for each in pod["status"].get("conditions", ())}
        if conditions.get("Ready", {}).get("status") == "True":
            ready.add(_node(pod))
        else:
            waiting[_node(pod)] = _reason(pod)
    return Coverage(wanted, frozenset(ready), waiting)


def _node(pod: Mapping[str, Any]) -> str:
    """Return the name of a Pod's node; before it is bound, its affinity names the node."""
    spec = pod["spec"]
    if name := spec.get("nodeName"):
        return str(name)
    required = (
        spec.get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", {})
    )
    for term in required.get("nodeSelectorTerms", ()):
        for field in term.get("matchFields", ()):
            return str(field["values"][0])
    return UNKNOWN_NODE


def _reason(pod: Mapping[str, Any]) -> str:
    status = pod["status"]
    for container in status.get("containerStatuses", ()):
        if waiting := container.get("state", {}).get("waiting"):
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
    return f"its Pod is {status.get('phase', 'not known')}"


@asynccontextmanager
async def connected(
    namespace: str, name: str, *, account: Path = ACCOUNT
) -> AsyncIterator[DaemonSet]:
    """Give a DaemonSet of the cluster in which this process runs.

    Raises ConfigError outside of a Pod.
    """
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT"),
    )
    try:
        token = (account / "token").read_text().strip()
        trusted = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as error:
        raise ConfigError(
            f"--daemonset: no account of Kubernetes in {account}: {error.strerror}; run it as a Pod"
        ) from error
    if not host or not port:
        raise ConfigError(
            "--daemonset: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; run it "
            "as a Pod"
        )
    address = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT),
        connector=aiohttp.TCPConnector(ssl=trusted, force_close=True),
    ) as session:
        yield DaemonSet(
            session=session, url=f"https://{address}:{port}", namespace=namespace, name=name
        )
