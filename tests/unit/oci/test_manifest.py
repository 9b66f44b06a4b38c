"""Reading manifests: what they are, what they name, and what is refused."""

from __future__ import annotations

import json
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


IMAGE: dict[str, Any] = {"config": CHILD, "layers": [CHILD]}
INDEX: dict[str, Any] = {"manifests": [CHILD]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(document(mediaType=manifest.OCI_MANIFEST, **IMAGE), manifest.OCI_MANIFEST, id="oci image"),
        pytest.param(document(mediaType=manifest.OCI_INDEX, **INDEX), manifest.OCI_INDEX, id="oci index"),
        pytest.param(document(mediaType=manifest.DOCKER_MANIFEST, **IMAGE), manifest.DOCKER_MANIFEST, id="docker"),
        pytest.param(document(mediaType=manifest.DOCKER_INDEX, **INDEX), manifest.DOCKER_INDEX, id="docker list"),
        pytest.param(document(**IMAGE), manifest.OCI_MANIFEST, id="image by shape"),
        pytest.param(document(**INDEX), manifest.OCI_INDEX, id="index by shape"),
        pytest.param(
            document(config=CHILD | {"mediaType": manifest.DOCKER_CONFIG}, layers=[]),
            manifest.DOCKER_MANIFEST,
            id="docker by shape",
        ),
        pytest.param(document(unknown=[1], **INDEX), manifest.OCI_INDEX, id="unknown fields"),
        pytest.param(document(), None, id="no shape"),
        pytest.param(document(**IMAGE, **INDEX), None, id="both shapes"),
        pytest.param(document(mediaType=manifest.OCI_INDEX, **IMAGE), None, id="says index, is image"),
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
    """A manifest is known by its media type, else by its shape; anything else is none."""
    assert manifest.detect(data) == expected


def test_children_of_an_image_are_its_config_and_layers_in_order() -> None:
    """Config first, then the layers as they stand."""
    layers = [build.layer({"a": b"1"}), build.layer({"b": b"2"})]
    image = build.image(layers)
    found = manifest.children(image.root.data)
    assert [child.digest for child in found] == [blob.digest for blob in image.blobs[1:]]
    assert [child.size for child in found] == [len(blob.data) for blob in image.blobs[1:]]
    assert [child.media_type for child in found] == [manifest.OCI_CONFIG, *[manifest.OCI_LAYER_GZIP] * 2]


def test_children_of_an_index_are_its_manifests() -> None:
    """One child for each platform."""
    platforms = [build.image([build.layer({arch: b"1"})], architecture=arch) for arch in ("amd64", "arm64")]
    found = manifest.children(build.index(platforms).root.data)
    assert [child.digest for child in found] == [platform.root.digest for platform in platforms]
    assert {child.media_type for child in found} == {manifest.OCI_MANIFEST}


def test_foreign_layers_and_subject_are_left_out() -> None:
    """What must not be redistributed, and what points up, is not a child."""
    foreign = CHILD | {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "urls": ["http://x"],
    }
    found = manifest.children(document(config=CHILD, layers=[foreign, CHILD], subject=CHILD))
    assert found == (manifest.Child(Digest.parse(DIGEST), 7, "x/y"),) * 2


@pytest.mark.parametrize(
    "child",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param(CHILD | {"digest": "sha256:../../etc/passwd"}, id="digest a path"),
        pytest.param(CHILD | {"digest": 5}, id="digest a number"),
        pytest.param(CHILD | {"size": -1}, id="negative size"),
        pytest.param(CHILD | {"size": True}, id="size a bool"),
        pytest.param(CHILD | {"size": 1 << 63}, id="size beyond int64"),
        pytest.param(CHILD | {"mediaType": None}, id="null media type"),
    ],
)
def test_a_bad_descriptor_is_refused(child: object) -> None:
    """A descriptor with a wrong field is an error of ours, not a KeyError."""
    with pytest.raises(ManifestInvalid):
        manifest.children(document(config=child, layers=[]))
    with pytest.raises(ManifestInvalid):
        manifest.children(document(manifests=[child]))


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
_fields = st.sampled_from(["schemaVersion", "mediaType", "manifests", "config", "layers", "subject"])
_documents = st.dictionaries(_fields, _json | st.just(2) | st.just(CHILD) | st.just([CHILD]))


@given(st.binary(max_size=64) | _documents.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever is read, the answer is a value or ManifestInvalid, and both functions agree."""
    try:
        found = manifest.children(data)
    except ManifestInvalid:
        return
    assert manifest.detect(data) in manifest.MANIFESTS
    assert all(isinstance(child, manifest.Child) for child in found)
