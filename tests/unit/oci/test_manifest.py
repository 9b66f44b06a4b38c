"""Reading manifests: their kinds, their content, and refusals."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import ManifestInvalid
from spegel_py.oci import build, manifest
from spegel_py.oci.digest import Digest

DIGEST = "sha256:" + "a" * 64
CHILD = {"mediaType": "x/y", "digest": DIGEST, "size": 7}


def document(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def unversioned(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


IMAGE: dict[str, Any] = {"config": CHILD, "layers": [CHILD]}
INDEX: dict[str, Any] = {"manifests": [CHILD]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            document(mediaType=manifest.OCI_MANIFEST, **IMAGE),
            manifest.OCI_MANIFEST,
            id="oci image",
        ),
        pytest.param(
            document(mediaType=manifest.OCI_INDEX, **INDEX), manifest.OCI_INDEX, id="oci index"
        ),
        pytest.param(
            document(mediaType=manifest.DOCKER_MANIFEST, **IMAGE),
            manifest.DOCKER_MANIFEST,
            id="docker",
        ),
        pytest.param(
            document(mediaType=manifest.DOCKER_INDEX, **INDEX),
            manifest.DOCKER_INDEX,
            id="docker list",
        ),
        pytest.param(document(**IMAGE), manifest.OCI_MANIFEST, id="image by shape"),
        pytest.param(document(**INDEX), manifest.OCI_INDEX, id="index by shape"),
        pytest.param(
            document(config=CHILD | {"mediaType": manifest.DOCKER_CONFIG}, layers=[]),
            manifest.DOCKER_MANIFEST,
            id="docker by shape",
        ),
        pytest.param(document(unknown=[1], **INDEX), manifest.OCI_INDEX, id="unknown fields"),
        pytest.param(document(), None, id="no shape"),
        pytest.param(document(mediaType="", **IMAGE), manifest.OCI_MANIFEST, id="empty media type"),
        pytest.param(document(mediaType=None, **INDEX), manifest.OCI_INDEX, id="null media type"),
        pytest.param(
            unversioned(mediaType=manifest.OCI_INDEX, **INDEX),
            manifest.OCI_INDEX,
            id="index without a version",
        ),
        pytest.param(
            unversioned(mediaType=manifest.DOCKER_MANIFEST, **IMAGE),
            manifest.DOCKER_MANIFEST,
            id="image without a version",
        ),
        pytest.param(
            document(mediaType=manifest.OCI_INDEX, layers=None, config=None, **INDEX),
            manifest.OCI_INDEX,
            id="index with the nulls of an image",
        ),
        pytest.param(
            document(manifests=[], **IMAGE),
            manifest.OCI_MANIFEST,
            id="image with the empty list of an index",
        ),
        pytest.param(
            document(mediaType=manifest.OCI_INDEX, manifests=[], layers=None),
            manifest.OCI_INDEX,
            id="index of nothing",
        ),
        pytest.param(unversioned(**INDEX), manifest.OCI_INDEX, id="index by its descriptors"),
        pytest.param(unversioned(**IMAGE), manifest.OCI_MANIFEST, id="image by its descriptors"),
        pytest.param(unversioned(manifests=None), None, id="nothing says that it is an index"),
        pytest.param(unversioned(manifests=["a"]), None, id="a list of other things"),
        pytest.param(unversioned(config=CHILD, layers="a"), None, id="layers that are none"),
        pytest.param(document(manifests=[], layers=[]), None, id="nothing of either kind"),
        pytest.param(document(manifests=[CHILD], layers={}), None, id="both shapes, one odd"),
        pytest.param(document(schemaVersion=1, **IMAGE), None, id="another version"),
        pytest.param(document(**IMAGE, **INDEX), None, id="both shapes"),
        pytest.param(
            document(mediaType=manifest.OCI_INDEX, **IMAGE), None, id="says index, is image"
        ),
        pytest.param(document(mediaType="text/plain", **IMAGE), None, id="foreign media type"),
        pytest.param(b'{"schemaVersion":1,"fsLayers":[]}', None, id="schema 1"),
        pytest.param(b'{"architecture":"amd64","config":{},"rootfs":{}}', None, id="a config"),
        pytest.param(b"\x1f\x8b\x08", None, id="gzip"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"[" * 100_000, None, id="deep"),
        pytest.param(b"[]", None, id="list"),
        pytest.param(b" " * (manifest.MAX_MANIFEST + 1), None, id="too long"),
    ],
)
def test_detect(data: bytes, expected: str | None) -> None:
    """A manifest is recognised by its media type, else by its fields. Other bytes have no type."""
    assert manifest.detect(data) == expected


def test_children_of_an_image_are_its_config_and_layers_in_order() -> None:
    """The config comes first, followed by the layers in order."""
    layers = [build.layer({"a": b"1"}), build.layer({"b": b"2"})]
    image = build.image(layers)
    found = manifest.children(image.root.data)
    assert [child.digest for child in found] == [blob.digest for blob in image.blobs[1:]]
    assert [child.size for child in found] == [len(blob.data) for blob in image.blobs[1:]]
    assert [child.media_type for child in found] == [
        manifest.OCI_CONFIG,
        *[manifest.OCI_LAYER_GZIP] * 2,
    ]


def test_children_of_an_index_are_its_manifests() -> None:
    """One child for each platform."""
    platforms = [
        build.image([build.layer({arch: b"1"})], architecture=arch) for arch in ("amd64", "arm64")
    ]
    found = manifest.children(build.index(platforms).root.data)
    assert [child.digest for child in found] == [platform.root.digest for platform in platforms]
    assert {child.media_type for child in found} == {manifest.OCI_MANIFEST}


def test_foreign_layers_and_subject_are_left_out() -> None:
    """Content that must not be redistributed is not a child, and neither is the parent in
    `subject`.
    """
    foreign = CHILD | {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "urls": ["http://x"],
    }
    found = manifest.children(document(config=CHILD, layers=[foreign, CHILD], subject=CHILD))
    assert found == (manifest.Child(Digest.parse(DIGEST), 7, "x/y"),) * 2


ODD = [
    pytest.param(None, id="null"),
    pytest.param([], id="list"),
    pytest.param(CHILD | {"digest": "sha256:../../etc/passwd"}, id="digest a path"),
    pytest.param(CHILD | {"digest": "sha384:" + "a" * 96}, id="digest of another algorithm"),
    pytest.param(CHILD | {"digest": 5}, id="digest a number"),
    pytest.param({"mediaType": "x/y", "digest": DIGEST}, id="no size"),
    pytest.param(CHILD | {"size": None}, id="null size"),
    pytest.param(CHILD | {"size": -1}, id="negative size"),
    pytest.param(CHILD | {"size": 7.0}, id="size a float"),
    pytest.param(CHILD | {"size": "7"}, id="size a text"),
    pytest.param(CHILD | {"size": True}, id="size a bool"),
    pytest.param(CHILD | {"size": 1 << 63}, id="size beyond int64"),
    pytest.param(CHILD | {"mediaType": 5}, id="media type a number"),
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_descriptor_hides_no_other(odd: object) -> None:
    """It alone is left out, in any position, and never counted with a size of 0."""
    other = manifest.Child(Digest.parse(DIGEST), 7, "x/y")
    assert manifest.children(document(config=CHILD, layers=[CHILD, odd, CHILD])) == (other,) * 3
    assert manifest.children(document(config=odd, layers=[CHILD])) == (other,)
    assert manifest.children(document(manifests=[odd, CHILD])) == (other,)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_descriptor_is_refused_where_all_are_needed(odd: object) -> None:
    """A reader that writes a whole image must not mistake the rest for the whole."""
    for data in (
        document(config=odd, layers=[]),
        document(config=CHILD, layers=[CHILD, odd]),
        document(manifests=[CHILD, odd]),
    ):
        with pytest.raises(ManifestInvalid):
            manifest.all_children(data)


@pytest.mark.parametrize("layers", [{}, "a", 5])
def test_a_list_of_layers_that_is_none_hides_no_config(layers: object) -> None:
    """Only a reader that needs the whole image refuses the manifest."""
    data = document(config=CHILD, layers=layers)
    assert len(manifest.children(data)) == 1
    with pytest.raises(ManifestInvalid, match="layers of a manifest is a list"):
        manifest.all_children(data)


def test_a_descriptor_need_not_have_a_media_type() -> None:
    """Go writes null for a type that is not set."""
    bare = {"digest": DIGEST, "size": 7}
    found = manifest.all_children(document(manifests=[bare, bare | {"mediaType": None}]))
    assert found == (manifest.Child(Digest.parse(DIGEST), 7, ""),) * 2


def test_an_image_without_a_config_has_its_layers() -> None:
    """An artifact may have no config. A reader that needs a whole image refuses it."""
    data = document(layers=[CHILD])
    assert manifest.detect(data) == manifest.OCI_MANIFEST
    assert len(manifest.children(data)) == 1
    with pytest.raises(ManifestInvalid):
        manifest.all_children(data)


def test_null_lists_are_empty() -> None:
    """Go's encoder writes null for an empty slice."""
    assert manifest.children(document(manifests=None)) == ()
    assert len(manifest.children(document(config=CHILD, layers=None))) == 1


_text = st.sampled_from(["", "x", DIGEST, *sorted(CHILD), *sorted(manifest.MANIFESTS)])
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 64) | st.just(0.5) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_fields = st.sampled_from(
    ["schemaVersion", "mediaType", "manifests", "config", "layers", "subject"]
)
_documents = st.dictionaries(_fields, _json | st.just(2) | st.just(CHILD) | st.just([CHILD]))


@given(st.binary(max_size=64) | _documents.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Any bytes give a value or ManifestInvalid, and all functions agree."""
    try:
        found = manifest.children(data)
    except ManifestInvalid:
        assert manifest.detect(data) is None
        return
    assert manifest.detect(data) in manifest.MANIFESTS
    assert all(isinstance(child, manifest.Child) for child in found)
    with suppress(ManifestInvalid):
        assert manifest.all_children(data) == found
