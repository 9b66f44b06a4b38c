"""Releasing the replicas that a removed node has left in containerd."""

from __future__ import annotations

from pathlib import Path

import structlog

from spegel_py.errors import StoreUnavailable

log = structlog.get_logger(__name__)


async def release_replicas(socket: Path, namespace: str) -> int | None:
    """Delete this program's leases, so that containerd collects what only they keep.

    Images that it has pinned are the kubelet's again.

    Returns their number; None without containerd: the leases then end by themselves two weeks after
    their last renewal. A node that still runs with `--replica-floor` holds its images again.
    """
    from spegel_py.store.containerd import Client, CriImages, Leases
    from spegel_py.store.containerd.lease_labels import OURS

    try:
        async with Client(socket=socket, namespace=namespace) as client:
            leases = Leases(client=client)
            found = await leases.list(*OURS)
            images = CriImages(client=client)
            for digest in await images.pins():
                await images.unpin(digest)
            for lease in found:
                await leases.delete(lease, sync=lease is found[-1])
    except StoreUnavailable as error:
        log.warning("replicas are not released", socket=str(socket), error=str(error))
        return None
    if found:
        log.info("replicas released", socket=str(socket), count=len(found))
    return len(found)
