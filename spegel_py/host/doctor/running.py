"""What the node that runs here answers: its state, and a manifest."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote

from spegel_py.host.asking import explain, get
from spegel_py.host.doctor.facts import NodeState, PeerState, Pull, Subject, Unknown
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference


async def state(metrics: str, *, timeout: float) -> NodeState | Unknown:
    """Ask the node at this URL of a metrics page for its state."""
    url = f"{metrics}/debug/state"
    try:
        answer = await get(url, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        return Unknown(f"{metrics}: {explain(error)}")
    if answer.status != 200:
        return Unknown(f"{url} answers {answer.status}: that is no spegel-py, or an older one")
    try:
        return _state(json.loads(answer.body))
    except (ValueError, KeyError, TypeError) as error:
        return Unknown(f"{url} cannot be read: {error!r}")


async def pull(subject: Subject, reference: Reference, digest: Digest, *, timeout: float) -> Pull | Unknown:
    """Ask the node for a manifest, as containerd does."""
    query = f"ns={quote(reference.registry, safe='')}"
    url = f"{subject.registry}/v2/{reference.repository}/manifests/{digest}?{query}"
    began = time.monotonic()
    try:
        answer = await get(url, authorization=subject.authorization, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        return Unknown(f"{subject.registry}: {explain(error)}")
    return Pull(
        digest=digest,
        status=answer.status,
        size=len(answer.body),
        is_right=digest.matches(answer.body),
        seconds=time.monotonic() - began,
    )


def _state(given: Any) -> NodeState:
    peers = [PeerState(str(one["id"]), str(one["address"]), one.get("skew_seconds")) for one in given["peers"]]
    return NodeState(
        version=str(given["version"]),
        uptime=float(given["uptime_seconds"]),
        ready=bool(given["ready"]),
        reason=given.get("reason"),
        peers=tuple(peers),
        tags=int(given["advertised"]["tags"]),
        digests=int(given["advertised"]["digests"]),
    )
