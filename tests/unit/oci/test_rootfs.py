"""The layers of an image in the order of unpacking."""

from __future__ import annotations

import hashlib
import json

import pytest

from spegel_py.errors import ManifestInvalid
from spegel_py.oci import build
from spegel_py.oci.rootfs import layers_of
from tests.support.images import image, random_layer


def documents(one: build.Image) -> tuple[bytes, bytes]:
    """Return the manifest and the config of an image."""
    return one.root.data, one.blobs[1].data


def test_each_layer_has_the_chain_of_those_below_it() -> None:
    """The digest of "<chain> <diff_id>", as the specification has it; the first is its diff_id."""
    layers = [random_layer(name, 10) for name in "abc"]
    found = layers_of(*documents(build.image(layers)))
    assert [one.blob.digest for one in found] == [one.blob.digest for one in layers]
    assert [one.diff_id for one in found] == [one.diff_id for one in layers]
    first, second, third = found
    assert (first.parent, first.chain) == (None, layers[0].diff_id)
    text = f"{layers[0].diff_id} {layers[1].diff_id}"
    assert second.parent == first.chain
    assert second.chain.hex == hashlib.sha256(text.encode()).hexdigest()
    assert third.parent == second.chain


@pytest.mark.parametrize(
    "config",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"rootfs": {"diff_ids": 5}}',
        b'{"rootfs": {"diff_ids": [5]}}',
        b'{"rootfs": {"diff_ids": ["sha256:short"]}}',
        b'{"rootfs": {"diff_ids": []}}',
        json.dumps({"rootfs": {"diff_ids": [f"sha256:{'a' * 64}"]}}).encode(),
    ],
)
def test_a_config_with_other_layers_is_refused(config: bytes) -> None:
    manifest, _ = documents(image(layers=2))
    with pytest.raises(ManifestInvalid):
        layers_of(manifest, config)


def test_an_artifact_without_layers_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="cannot be unpacked"):
        layers_of(*documents(build.image([])))
