"""The form in which a replica is remembered: the id and the labels of a lease. Pure.

A lease cannot be changed once it exists, so its labels also say how many blobs belong to it. A
lease with fewer was left unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from spegel_py.errors import DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.store.base import Descriptor, PlatformImage, Replica, ReplicaReason

PREFIX = "spegel-py/content/"
"""Beginning of the ids of all leases that hold a replica's content."""

WRITING = "spegel-py/writing/"
"""Beginning of the ids of the leases below which images are written; the manifest's digest in hex
follows."""

UNPACKED = "spegel-py/unpacked/"
"""Beginning of the ids of the leases that keep the snapshots of unpacked images; the manifest's
digest in hex follows."""

UNPACKING = "spegel-py/unpacking/"
"""The same while an image is being unpacked. Such a lease is of no use after a restart."""

OURS = (PREFIX, WRITING, UNPACKED, UNPACKING)
"""Beginnings of the ids of all leases of this program."""

WRITING_LIFE = 24 * 3600.0
"""Seconds that containerd keeps what is written below such a lease. It keeps an ingest without a
lease for as long."""

EXPIRE = "containerd.io/gc.expire"
"""The label with the time from which containerd deletes the lease (containerd,
core/metadata/gc.go)."""

FLAT = "containerd.io/gc.flat"
"""The label that limits a lease to its own resources.

Without it the collector would follow an image's labels to its snapshots, and the kubelet could not
free them.
"""

MAX_NAMES = 8
"""Tags that are remembered for one replica: those that were pulled last."""

MAX_LABEL = 4096
"""Bytes of a label's key and value together that containerd takes (containerd,
pkg/labels/validate.go)."""

_MANIFEST, _ROOT, _ROOT_SIZE, _ROOT_TYPE = (
    f"spegel-py/{field}" for field in ("manifest", "root", "root-size", "root-type")
)
_BLOBS, _REASON, _USED, _NAME, _PULLED = (
    f"spegel-py/{field}" for field in ("blobs", "reason", "used", "name.", "pulled.")
)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of containerd. `created` is the Unix time at which it was made, 0 if unknown."""

    id: str
    labels: Mapping[str, str]
    created: float = 0.0


def lease_of(replica: Replica, *, now: float) -> Lease:
    """Return the lease for a replica.

    The Unix time `now`, in milliseconds, makes its id unique.
    """
    image = replica.image
    labels = {
        EXPIRE: _time(replica.expires),
        FLAT: "true",
        _MANIFEST: str(image.manifest),
        _ROOT: str(image.root.digest),
        _ROOT_SIZE: str(image.root.size),
        _ROOT_TYPE: image.root.media_type,
        _BLOBS: str(len(image.blobs)),
        _REASON: replica.reason,
        _USED: repr(replica.used),
    }
    for number, (name, pulled) in enumerate(remembered(replica.names).items()):
        labels |= {f"{_NAME}{number}": name, f"{_PULLED}{number}": repr(pulled)}
    return Lease(f"{PREFIX}{image.manifest.hex}/{round(now * 1000)}", labels)


def writing_lease(image: PlatformImage, *, now: float) -> Lease:
    """Return the lease below which an image is written. It can be found again after a restart."""
    labels = {EXPIRE: _time(now + WRITING_LIFE), FLAT: "true", _MANIFEST: str(image.manifest)}
    return Lease(f"{WRITING}{image.manifest.hex}", labels)


def unpacking_lease(image: PlatformImage, *, now: float) -> Lease:
    """Return the lease below which an image is unpacked."""
    labels = {EXPIRE: _time(now + WRITING_LIFE), FLAT: "true"}
    return Lease(f"{UNPACKING}{image.manifest.hex}/{round(now * 1000)}", labels)


def unpacked_lease(replica: Replica, *, now: float) -> Lease:
    """Return the lease that keeps the snapshots of an unpacked replica.

    It is not flat: from the image's root, the collector follows the labels to the snapshots.
    """
    image = replica.image
    labels = {
        EXPIRE: _time(replica.expires),
        _MANIFEST: str(image.manifest),
        _ROOT: str(image.root.digest),
    }
    return Lease(f"{UNPACKED}{image.manifest.hex}/{round(now * 1000)}", labels)


def unpacked_manifest(lease: Lease, content: Collection[Digest]) -> Digest | None:
    """Return the manifest of the image that a lease keeps unpacked; None if it is unfinished.

    Args:
        content: the lease's content.
    """
    try:
        manifest, root = (Digest.parse(lease.labels[key]) for key in (_MANIFEST, _ROOT))
    except (KeyError, DigestInvalid):
        return None
    return manifest if root in content else None


def remembered(names: Mapping[str, float]) -> dict[str, float]:
    """Return the tags that a lease can hold: the latest, without those that are too long."""
    fit = [name for name in names if len(_NAME) + 1 + len(name.encode()) <= MAX_LABEL]
    latest = sorted(fit, key=lambda name: (-names[name], name))[:MAX_NAMES]
    return {name: names[name] for name in latest}


def replica_of(lease: Lease, blobs: Collection[Descriptor]) -> Replica | None:
    """Return the replica that a lease holds; None if it is unfinished, or not of this program.

    Args:
        blobs: the lease's content that is here.
    """
    labels = lease.labels
    try:
        manifest, root = Digest.parse(labels[_MANIFEST]), Digest.parse(labels[_ROOT])
        image = PlatformImage(
            manifest=manifest,
            root=Child(root, int(labels[_ROOT_SIZE]), labels[_ROOT_TYPE]),
            blobs=frozenset(blobs),
        )
        if len(image.blobs) != int(labels[_BLOBS]):
            return None
        names = {
            labels[f"{_NAME}{number}"]: float(labels[f"{_PULLED}{number}"])
            for number in range(MAX_NAMES)
            if f"{_NAME}{number}" in labels
        }
        return Replica(
            image=image,
            names=names,
            reason=ReplicaReason(labels[_REASON]),
            used=float(labels[_USED]),
            expires=datetime.fromisoformat(labels[EXPIRE]).timestamp(),
        )
    except (KeyError, ValueError, DigestInvalid):
        return None


def made_at(lease: Lease) -> int:
    """Return the milliseconds in a lease's id; 0 for another program's id."""
    text = lease.id.rpartition("/")[2]
    return int(text) if text.isdecimal() else 0


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(math.ceil(seconds), UTC).isoformat()
