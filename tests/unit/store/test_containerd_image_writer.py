"""The labels of content that is written into containerd."""

from __future__ import annotations

from spegel_py.oci.manifest import Child
from spegel_py.store.containerd.containerd_image_writer import child_labels, merged, source_labels
from tests.support.images import image


def test_children_are_labelled_as_containerd_does() -> None:
    """The labels are numbered by kind."""
    one = image(layers=2)
    digest = one.root.digest
    types = (
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.manifest.v1+json",
    )
    labels = child_labels([Child(digest, 1, each) for each in types])
    beginning = "containerd.io/gc.ref.content."
    assert [key.removeprefix(beginning) for key in labels] == ["config", "l.0", "l.1", "m.0"]
    assert source_labels(["registry.example:5000/team/app"]) == {
        "containerd.io/distribution.source.registry.example": "team/app"
    }


def test_repositories_are_added_to_those_of_a_blob_that_is_here() -> None:
    """Labels that a blob has already are not set again."""
    source, child = "containerd.io/distribution.source.registry.example", "containerd.io/gc.ref.x"
    before = {source: "team/app", child: "sha256:1"}
    assert merged(before, {source: "team/app", child: "sha256:1"}) == {}
    assert merged(before, {source: "a/b"}) == {source: "a/b,team/app"}
