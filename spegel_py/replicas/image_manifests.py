"""The manifests of an image that is taken, from its root to the platform's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from spegel_py.errors import DigestMismatch, ManifestInvalid
from spegel_py.oci.distribution import PullClient
from spegel_py.oci.manifest import INDEXES, Child, all_children
from spegel_py.pull.hosts import Hosts, connected
from spegel_py.pull.mirror_client import Manifest
from spegel_py.pull.plan import Platform, select
from spegel_py.pull.plan import blobs as blobs_of
from spegel_py.pull.session import DEPTH
from spegel_py.replicas.image_fetch import retried
from spegel_py.replicas.take_order import TakeOrder, TakeProgress
from spegel_py.store.base import Descriptor, PlatformImage
from spegel_py.tools.addresses import MirrorAddress


def hosts_of(
    order: TakeOrder, *, mirror: str | MirrorAddress
) -> AbstractAsyncContextManager[Hosts]:
    """Return the hosts of an image: this node's mirror, and its registry if the order has one."""
    return connected(
        mirror=mirror,
        upstream=order.upstream,
        reference=order.reference,
        deadlines=None,
        client=PullClient.REPLICA if order.is_background else PullClient.PREHEAT,
    )


async def find_manifests(hosts: Hosts, order: TakeOrder, progress: TakeProgress) -> list[Manifest]:
    """Return the manifests from the root to the platform's. Raises SpegelError."""
    reference = order.reference
    target: Child | Manifest = (
        Child(reference.digest, -1, "")
        if reference.digest is not None
        else await retried(lambda: hosts.resolve(reference.tag or ""))
    )
    path: list[Manifest] = []
    while True:
        if isinstance(target, Child):
            child = target
            found = await retried(lambda: hosts.manifest(child))  # noqa: B023 - awaited here
            if path and child.size != found.child.size:
                raise DigestMismatch(
                    f"{child.digest} has {found.child.size} bytes, its index says {child.size}"
                )
        else:
            found = target
        progress.count(found.child.size, is_upstream=found.is_upstream)
        path.append(found)
        if found.child.media_type not in INDEXES:
            break
        if len(path) > DEPTH:
            raise ManifestInvalid(f"more than {DEPTH} indexes within each other")
        target = _next_manifest(found, order)
    if order.manifest not in (None, path[-1].child.digest):
        raise ManifestInvalid(f"{order.manifest} is no manifest of {reference}")
    return path


def _next_manifest(index: Manifest, order: TakeOrder) -> Child:
    """Return the entry of an index that leads to the wanted manifest.

    Case 1: the index names the manifest.
    Case 2: the platform chooses it. A nested index is only followed if nothing fits.
    """
    children = all_children(index.data)
    if named := [child for child in children if child.digest == order.manifest]:
        return named[0]
    chosen = select(index.data, order.platform or Platform.here())
    fitting = [child for child in chosen if child.media_type not in INDEXES]
    return (fitting or list(chosen))[0]


def image_of(manifests: Sequence[Manifest]) -> tuple[PlatformImage, tuple[Child, ...]]:
    """Return the image below these manifests, the root first, with its config and layers.

    Raises ManifestInvalid.
    """
    blobs = blobs_of([manifests[-1].data])
    content = [*(one.child for one in manifests), *blobs]
    image = PlatformImage(
        manifest=manifests[-1].child.digest,
        root=manifests[0].child,
        blobs=frozenset(Descriptor(child.digest, child.size) for child in content),
    )
    return image, blobs
