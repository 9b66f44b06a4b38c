"""The manifests and blobs of an image that are fetched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import ConfigError, ManifestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Child
from spegel_py.pull import plan
from spegel_py.pull.plan import Platform


def child(name: str, size: int = 10, media_type: str = OCI_MANIFEST) -> Child:
    return Child(Digest.of(name.encode()), size, media_type)


def entry(
    name: str, platform: str | None = None, media_type: str = OCI_MANIFEST
) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": media_type,
        "digest": str(Digest.of(name.encode())),
        "size": 10,
    }
    if platform:
        found["platform"] = dict(
            zip(("os", "architecture", "variant"), platform.split("/"), strict=False)
        )
    return found


def index(*entries: dict[str, object]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm64", "linux/arm64/8"),
        ("linux/arm", "linux/armhf"),
        ("LINUX/AMD64", "linux/amd64/v1"),
    ],
)
def test_names_of_one_platform_are_one(text: str, same: str) -> None:
    """Other names of a platform are equal, as containerd normalises them."""
    assert Platform.parse(text) == Platform.parse(same)


@pytest.mark.parametrize("size", [None, -1, 7.0])
def test_a_pull_of_a_part_is_no_pull(size: object) -> None:
    """An image with an unusable layer is refused, and never written without it."""
    layer = entry("layer", media_type=OCI_LAYER_GZIP) | {"size": size}
    config = entry("config", media_type=OCI_CONFIG)
    image = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    with pytest.raises(ManifestInvalid):
        plan.blobs([json.dumps(image).encode()])


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64/"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    """A malformed platform is a wrong argument. The text shows the right form."""
    with pytest.raises(ConfigError, match="linux/arm64"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"], 2),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm64/v8", "linux/arm64"], 0),
        ("linux/s390x", ["unknown/unknown", "linux/s390x"], 1),
    ],
)
def test_best_variant(wanted: str, there: list[str], chosen: int) -> None:
    """The highest variant that runs on the platform is taken; of equal ones, the first."""
    data = index(*(entry(str(number), platform) for number, platform in enumerate(there)))
    assert plan.select(data, Platform.parse(wanted)) == (child(str(chosen)),)


def test_all_platforms() -> None:
    """Without a platform everything is fetched once, attestations too."""
    data = index(
        entry("a", "linux/amd64"), entry("b", "linux/arm64"), entry("a", "linux/amd64"), entry("c")
    )
    assert plan.select(data, None) == (child("a"), child("b"), child("c"))


def test_nothing_for_the_platform() -> None:
    """The error names the available platforms."""
    data = index(entry("a", "linux/amd64"), entry("x", "unknown/unknown"))
    with pytest.raises(ConfigError, match=r"not there for linux/riscv64; .*: linux/amd64$"):
        plan.select(data, Platform.parse("linux/riscv64"))


def test_nested_index_and_entries_without_platform() -> None:
    """A nested index is followed. An entry without a platform is taken if no other fits."""
    data = index(entry("inner", media_type=OCI_INDEX), entry("bare"), entry("arm", "linux/arm64"))
    inner = child("inner", media_type=OCI_INDEX)
    assert plan.select(data, Platform.parse("linux/amd64")) == (inner, child("bare"))
    assert plan.select(data, Platform.parse("linux/arm64")) == (inner, child("arm"))


@pytest.mark.parametrize("odd", [7, "linux", {"os": 1, "architecture": "amd64"}, []])
def test_odd_platforms_are_none(odd: object) -> None:
    """A platform that is not an object of texts counts as missing."""
    assert plan.platforms(index(entry("a") | {"platform": odd})) == [(child("a"), None)]


def manifest(*layers: Child) -> bytes:
    def named(one: Child) -> dict[str, object]:
        return {"mediaType": one.media_type, "digest": str(one.digest), "size": one.size}

    config = child("config", media_type=OCI_CONFIG)
    return json.dumps(
        {"schemaVersion": 2, "config": named(config), "layers": [named(one) for one in layers]}
    ).encode()


def test_shared_layers_are_fetched_once() -> None:
    """A blob that several manifests or layers name appears once, at its first position."""
    base, app, other = (child(name, media_type=OCI_LAYER_GZIP) for name in ("base", "app", "other"))
    found = plan.blobs([manifest(base, app, base), manifest(base, other)])
    assert [one.digest for one in found] == [
        Digest.of(name) for name in (b"config", b"base", b"app", b"other")
    ]


def test_contradictions_are_refused() -> None:
    """A digest with two sizes, or a manifest among the layers, is refused."""
    with pytest.raises(ManifestInvalid, match="another size"):
        plan.blobs([manifest(child("a", 1, OCI_LAYER_GZIP), child("a", 2, OCI_LAYER_GZIP))])
    with pytest.raises(ManifestInvalid, match="is a manifest"):
        plan.blobs([manifest(child("a"))])


@given(count=st.integers(1, 9), start=st.integers(0, 20))
def test_rotation_loses_nothing(count: int, start: int) -> None:
    """A rotated plan has the same blobs and the right start."""
    found = [child(str(number)) for number in range(count)]
    rotated = plan.rotated(found, start)
    assert rotated[0] == found[start % count]
    assert sorted(rotated) == sorted(found)
