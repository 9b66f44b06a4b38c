"""Finding the snapshotter by the labels of the runtime's images."""

from __future__ import annotations

from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.grpc_client import CHILD
from spegel_py.store.containerd.image_unpacker import SNAPSHOT, snapshotter_of

INDEX, MANIFEST, CONFIG, OTHER = (Digest.of(name.encode()) for name in "imco")
LABELS = {
    INDEX: {f"{CHILD}.m.0": str(MANIFEST), f"{CHILD}.m.1": "sha256:elsewhere"},
    MANIFEST: {f"{CHILD}.config": str(CONFIG)},
    CONFIG: {f"{SNAPSHOT}native": "sha256:chain"},
    OTHER: {f"{SNAPSHOT}overlayfs": "sha256:chain"},
}


def test_the_label_below_a_pulled_image_counts() -> None:
    """Another blob's label may be this program's own."""
    assert snapshotter_of([INDEX], LABELS) == "native"
    assert snapshotter_of([CONFIG, OTHER, MANIFEST], LABELS | {OTHER: {}}) == "native"


def test_without_an_unpacked_image_it_is_unknown() -> None:
    assert snapshotter_of([], LABELS) is None
    assert snapshotter_of([Digest.of(b"gone")], LABELS) is None
    assert snapshotter_of([INDEX], LABELS | {CONFIG: {}}) is None


def test_a_cycle_of_labels_ends() -> None:
    assert snapshotter_of([INDEX], {INDEX: {f"{CHILD}.m.0": str(INDEX)}}) is None
