"""Reads in Kubernetes' API whether this node's machine is cordoned, so that it drains by itself.

One object is read: the node's own, twice or three times a minute, with the token and the
certificate that Kubernetes mounts into the Pod. Both are read anew each time, because Kubernetes
replaces them. If the API does not answer, the node keeps to the last answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import structlog

from spegel_py.errors import SpegelError
from spegel_py.tools.addresses import join_host_port
from spegel_py.tools.backoff import Backoff
from spegel_py.tools.threads import run

log = structlog.get_logger(__name__)

FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a Pod's `token` and the API's `ca.crt`."""

POLL, POLL_MOST = 22.0, 300.0
"""Seconds between two readings, about, and at most after failures. The API server answers from its
cache."""

JITTER = 0.3
"""Share by which a pause is longer or shorter, so that the nodes do not ask together."""

TIMEOUT = 5.0
"""Seconds for an answer."""

MAX_OBJECT = 4 * 1024 * 1024
"""Bytes of a node's object that are read; one with 50 images has 20,000."""

TAINTS = (
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "node.kubernetes.io/out-of-service",
)
"""Keys of the taints of a machine that goes away: of the autoscalers, and of Kubernetes itself."""


class CordonUnknown(SpegelError):
    """The API did not say whether the machine is cordoned; the text is a reason for people."""


@dataclass(frozen=True, slots=True)
class NodeAPI:
    """Where this node's object is read.

    Args:
        url: the object's URL.
        folder: has the token, and for https the certificate.
    """

    url: str
    folder: Path = FOLDER

    @classmethod
    def of_cluster(cls, environment: Mapping[str, str], node: str) -> Self | None:
        """Return the API that a Pod's environment names; None outside of a cluster."""
        host, port = (environment.get(f"KUBERNETES_SERVICE_{one}") for one in ("HOST", "PORT"))
        if not host:
            return None
        where = join_host_port(host, int(port) if port and port.isdigit() else 443)
        return cls(f"https://{where}/api/v1/nodes/{node}?resourceVersion=0")


def cordon_reason(node: object) -> str:
    """Return why a machine is about to go, by its node object; empty if it is not. Pure.

    Raises CordonUnknown if it is no such object.
    """
    members = node if isinstance(node, dict) else {}
    metadata, spec = members.get("metadata"), members.get("spec", {})
    if members.get("kind") != "Node" or not isinstance(metadata, dict):
        raise CordonUnknown("the API's answer is no node object")
    spec = spec if isinstance(spec, dict) else {}
    if metadata.get("deletionTimestamp"):
        return "its node is being deleted"
    taints = spec.get("taints")
    keys = [_key(taint) for taint in taints] if isinstance(taints, list) else []
    if found := [key for key in keys if key in TAINTS]:
        return f"it has the taint {found[0]}"
    return "it is cordoned" if spec.get("unschedulable") is True else ""


def _key(taint: object) -> object:
    return taint.get("key") if isinstance(taint, dict) else None


class CordonWatch:
    """Looks whether the machine is cordoned. `reason` has the last answer.

    Args:
        api: where the object is read; None if this is no Pod, which is logged once.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        api: NodeAPI | None,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._rng = rng
        self._sleep = sleep
        self._fault: str | None = None
        self.reason = ""
        """Why the machine is about to go; empty if it is not, and until the first answer."""

    def __repr__(self) -> str:
        return f"<CordonWatch {self._api!r} {self.reason!r}>"

    async def run(self) -> None:
        """Look until cancelled."""
        if self._api is None:
            log.warning("cordon cannot be seen", error="this is no Pod of a Kubernetes cluster")
            return
        pauses = Backoff(first=POLL, most=POLL_MOST)
        while True:
            if await self.look(self._api):
                pauses.reset()
            await self._sleep(pauses.next() * self._rng.uniform(1 - JITTER, 1 + JITTER))

    async def look(self, api: NodeAPI) -> bool:
        """Read the object once. Return True if the API answered; a failure is logged once."""
        try:
            self.reason = cordon_reason(await _read(api))
        except CordonUnknown as error:
            if self._fault is None:
                log.warning("cordon cannot be seen", error=str(error))
            self._fault = str(error)
            return False
        if self._fault is not None:
            log.info("cordon is seen again")
        self._fault = None
        return True


async def _read(api: NodeAPI) -> Any:
    """Return the node's object. Raises CordonUnknown."""
    try:
        token = (await run((api.folder / "token").read_text)).strip()
        context: ssl.SSLContext | bool = True
        if api.url.startswith("https:"):
            context = await run(ssl.create_default_context, cafile=api.folder / "ca.crt")
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        limit = aiohttp.ClientTimeout(total=TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(api.url, headers=headers, ssl=context, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise CordonUnknown(_refusal(response.status))
            body = await response.content.read(MAX_OBJECT)
            while chunk := await response.content.read(MAX_OBJECT):
                body += chunk
                if len(body) > MAX_OBJECT:
                    raise CordonUnknown(f"the node object has more than {MAX_OBJECT} bytes")
            return json.loads(body)
    except TimeoutError as error:
        raise CordonUnknown(f"the API did not answer within {TIMEOUT:.0f} s") from error
    except (OSError, ValueError, RecursionError, aiohttp.ClientError) as error:
        raise CordonUnknown(str(error) or type(error).__name__) from error


def _refusal(status: int) -> str:
    match status:
        case 401:
            return "the API refuses the token (401)"
        case 403:
            return "the ServiceAccount may not get its node (403); the chart's ClusterRole lets it"
        case 404:
            return "the API knows no such node (404); --node-name must be Kubernetes' name"
    return f"the API answers {status}"
