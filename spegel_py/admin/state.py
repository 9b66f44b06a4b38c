"""The state of a node as `/debug/state` shows it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from spegel_py import __version__
from spegel_py.health.peer_health import HealthState
from spegel_py.oci.reference import is_replica_key
from spegel_py.routing.base import Member

_STARTED = time.monotonic()


def describe(
    *,
    node_id: str,
    not_ready: str | None,
    store: Mapping[str, object],
    settings: Mapping[str, object],
    members: Iterable[Member],
    advertised: Collection[str],
    supervision: Mapping[str, object],
    health: Callable[[str], HealthState],
    pulls: Mapping[str, object],
    in_flight: Sequence[Mapping[str, object]] | None,
    replicas: Mapping[str, object] | None = None,
    draining: Mapping[str, str] | None = None,
    leaving: Collection[str] = (),
    preheat: Mapping[str, object] | None = None,
    zone: str = "",
    cluster_keys: Mapping[str, object] | None = None,
    peer_tls: Mapping[str, object] | None = None,
    peer_proofs: str = "off",
    tag_trust: Mapping[str, object] | None = None,
    runtime_token: Mapping[str, object] | None = None,
    private_images: Mapping[str, object] | None = None,
) -> Mapping[str, object]:
    """Return the state as JSON.

    Times are seconds. `heard_seconds` and `skew_seconds` are null for peers that do not send them
    (Spegel in Go). A positive skew means that the peer's clock is ahead.

    Args:
        zone: the zone that the node is in, empty for none.
        not_ready: the reason why the node is not ready, None if it is.
        store: how the node reads its content.
        settings: settings that `spegel-py doctor` needs, as text.
        health: returns the health of a peer by its id.
        in_flight: the digests in flight, None if in-flight sharing is off.
        replicas: the floor of replicas and what limits them, None if replicas are off.
        draining: the causes for which the node drains, None if it does not.
        leaving: the ids of the peers that drain.
        cluster_keys: which keys of the cluster are in use, None if there are none.
        peer_tls: the state of the certificates between peers, None if there are none.
        peer_proofs: how proofs between peers are used (`--peer-proofs`).
        tag_trust: the rules for tags of peers, and the conflicts about tags.
        runtime_token: the state of the runtime's token file, None if there is none.
        private_images: the registries that cannot be asked about private images, None if nobody is.
        preheat: the faults of pre-heating, its list and the control socket.
    """
    tags = sum("/" in key for key in advertised)
    digests = sum(not is_replica_key(key) for key in advertised) - tags
    return {
        "version": __version__,
        "id": node_id,
        "zone": zone,
        "uptime_seconds": round(time.monotonic() - _STARTED, 3),
        "ready": not_ready is None,
        "reason": not_ready,
        "store": store,
        "settings": settings,
        "tasks": len(asyncio.all_tasks()),
        "descriptors": sum(1 for _ in os.scandir("/proc/self/fd")),
        "peers": [
            {
                "id": member.id,
                "address": member.address,
                "agent": member.agent,
                "zone": member.zone,
                "keys": member.keys,
                "heard_seconds": _rounded(member.heard),
                "skew_seconds": _rounded(member.skew),
                "health": health(member.id).value,
                "draining": member.id in leaving,
                "proofs": member.has_proofs,
                "tls": member.peer is not None and member.peer.has_tls,
            }
            for member in members
        ],
        "advertised": {"tags": tags, "digests": digests},
        "pulls": pulls,
        "in_flight": in_flight,
        "replicas": replicas,
        "draining": draining,
        "cluster_keys": cluster_keys,
        "peer_tls": peer_tls,
        "peer_proofs": peer_proofs,
        "tag_trust": tag_trust,
        "runtime_token": runtime_token,
        "private_images": private_images,
        "preheat": preheat,
        "supervision": supervision,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
