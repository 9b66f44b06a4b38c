"""A replica written as a lease, and read again."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_INDEX, OCI_MANIFEST, Child
from spegel_py.store.base import Descriptor, PlatformImage, Replica, ReplicaReason
from spegel_py.store.containerd.lease_labels import (
    EXPIRE,
    FLAT,
    MAX_LABEL,
    MAX_NAMES,
    Lease,
    lease_of,
    made_at,
    remembered,
    replica_of,
)

NOW = 1_790_000_000.0

digests = st.binary(min_size=32, max_size=32).map(lambda data: Digest("sha256", data.hex()))
tags = st.text("abcdef/.-:0123", min_size=1, max_size=40)
times = st.floats(0, 2**32, allow_nan=False)


@st.composite
def replicas(draw: st.DrawFn) -> Replica:
    manifest, root = draw(digests), draw(digests)
    blobs = draw(st.dictionaries(digests, st.integers(0, 1 << 40), max_size=6))
    return Replica(
        image=PlatformImage(
            manifest=manifest,
            root=Child(
                root, draw(st.integers(0, 4096)), draw(st.sampled_from([OCI_INDEX, OCI_MANIFEST]))
            ),
            blobs=frozenset(Descriptor(one, size) for one, size in blobs.items()),
        ),
        names=draw(st.dictionaries(tags, times, max_size=MAX_NAMES)),
        reason=draw(st.sampled_from(ReplicaReason)),
        used=draw(times),
        expires=float(draw(st.integers(0, 2**32))),
    )


@given(replica=replicas())
def test_a_replica_is_read_as_it_was_written(replica: Replica) -> None:
    lease = lease_of(replica, now=NOW)
    assert replica_of(lease, replica.image.blobs) == replica
    assert made_at(lease) == round(NOW * 1000)
    assert lease.labels[FLAT]
    assert all(len(f"{key}{text}".encode()) <= MAX_LABEL for key, text in lease.labels.items())


@given(replica=replicas(), data=st.data())
def test_a_lease_without_a_blob_is_unfinished(replica: Replica, data: st.DataObject) -> None:
    if blobs := sorted(replica.image.blobs, key=lambda blob: str(blob.digest)):
        gone = data.draw(st.sampled_from(blobs))
        assert replica_of(lease_of(replica, now=NOW), replica.image.blobs - {gone}) is None


@given(labels=st.dictionaries(st.text(max_size=20), st.text(max_size=20)), replica=replicas())
def test_labels_of_others_are_no_replica(labels: dict[str, str], replica: Replica) -> None:
    """Neither arbitrary labels nor a damaged label of this program raise an error."""
    assert replica_of(Lease("spegel-py/content/x", labels), []) is None
    lease = lease_of(replica, now=NOW)
    for key in lease.labels:
        damaged = replace(lease, labels={**lease.labels, key: "\ud7ff"})
        replica_of(damaged, replica.image.blobs)


def test_the_expiry_is_a_time_that_containerd_parses() -> None:
    """RFC 3339 with a zone, rounded up to a second."""
    [blob] = {Descriptor(Digest.of(b"x"), 1)}
    image = PlatformImage(
        manifest=blob.digest, root=Child(blob.digest, 1, OCI_MANIFEST), blobs=frozenset([blob])
    )
    replica = Replica(
        image=image, names={}, reason=ReplicaReason.FLOOR, used=NOW, expires=1_795_975_384.2
    )
    assert lease_of(replica, now=NOW).labels[EXPIRE] == "2026-11-29T18:03:05+00:00"


def test_the_latest_tags_are_remembered() -> None:
    """Tags beyond the limit, and one that is too long for a label, are left out."""
    names = {f"registry.example/app:{number}": float(number) for number in range(MAX_NAMES + 3)}
    kept = remembered(names | {"x" * MAX_LABEL: 99.0})
    assert kept == {f"registry.example/app:{number}": float(number) for number in range(3, 11)}
