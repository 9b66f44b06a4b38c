"""The time of an image's pull, derived from its record."""

from __future__ import annotations

from collections.abc import Mapping

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST, Child
from spegel_py.store.containerd.grpc_client import NamedImage
from spegel_py.store.containerd.pull_times import CRI_OWN, PullTimes

MANAGED = {CRI_OWN: "managed"}


def seen(
    updated: float, *, target: str = "v1", created: float = 1.0, labels: Mapping[str, str] = MANAGED
) -> NamedImage:
    """Return an image as containerd reports it."""
    digest = Digest.of(target.encode())
    return NamedImage("r.io/app:1", Child(digest, 2, OCI_MANIFEST), created, updated, labels)


def test_a_pull_of_the_same_digest_counts() -> None:
    """It writes only the time, and the CRI's label if another client pulled."""
    times = PullTimes()
    assert [times.of(seen(5)), times.of(seen(7)), times.of(seen(7))] == [5, 7, 7]
    assert times.of(seen(8, labels={})) == 8
    assert times.of(seen(9)) == 9


def test_a_label_is_no_pull() -> None:
    """Setting, changing and removing a label all count as no pull."""
    times = PullTimes()
    assert times.of(seen(5)) == 5
    for updated, labels in ((6, {"x": "y"}), (7, {"x": "z"}), (8, {})):
        assert times.of(seen(updated, labels=MANAGED | labels)) == 5


def test_a_pull_of_a_labelled_image_counts() -> None:
    """It counts if it keeps the labels or moves the tag.

    If it removes the labels, a label may have ended.
    """
    times, labels = PullTimes(), MANAGED | {"x": "y"}
    assert times.of(seen(5)) == 5
    assert times.of(seen(6, labels=labels)) == 5
    assert times.of(seen(7, labels=labels)) == 7
    assert times.of(seen(8, labels=labels, target="v2")) == 8
    assert times.of(seen(9, target="v2")) == 8
    assert times.of(seen(10, target="v2")) == 10


def test_an_image_with_labels_that_was_never_seen_counts_from_its_creation() -> None:
    """After a start the cause of the last change is unknown. The older time is safe."""
    assert PullTimes().of(seen(9, labels=MANAGED | {"x": "y"})) == 1
    assert PullTimes().of(seen(9)) == 9


def test_an_image_that_was_made_anew_is_not_what_it_was() -> None:
    """The image was deleted and pulled again, with other labels or none."""
    times = PullTimes()
    assert times.of(seen(5)) == 5
    assert times.of(seen(20, created=20, labels=MANAGED | {"x": "y"})) == 20


def test_a_record_that_was_read_earlier_changes_nothing() -> None:
    """Two answers may arrive in any order."""
    times = PullTimes()
    assert times.of(seen(5, labels=MANAGED | {"x": "y"}, created=5)) == 5
    assert times.of(seen(4, created=4)) == 5
    assert times.of(seen(6, labels=MANAGED | {"x": "y"}, created=5)) == 6


def test_what_is_not_kept_is_forgotten() -> None:
    """A deleted image takes no memory."""
    times = PullTimes()
    times.of(seen(5))
    times.keep(["r.io/other:1"])
    assert "images=0" in repr(times)
