"""The images that clients pull, and where each part is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from spegel_py.oci.build import Blob, Image
from tests.support import images

REPOSITORY = "registry.test/bench/load"
IMAGES, LAYERS = 20, 3
SMALL, LARGE = 64 * 1024, 32 * 1024 * 1024
"""Bytes of a small layer, and of the one that is read slowly."""


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest or a layer that a client asks for."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """All parts that are asked for."""

    manifests: list[Part]
    layers: list[Part]
    large: Part

    def as_task(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self)


def make() -> tuple[dict[str, Image], Content]:
    """Return the images by name, and the parts; the same in every run."""
    small = {
        f"{REPOSITORY}:{number}": images.image(f"load {number}", layers=LAYERS, size=SMALL)
        for number in range(IMAGES)
    }
    large = images.image("load large", layers=1, size=LARGE)
    content = Content(
        manifests=[_part("manifests", image.root) for image in small.values()],
        layers=[
            _part("blobs", blob)
            for image in small.values()
            for blob in image.blobs
            if len(blob.data) >= SMALL
        ],
        large=_part("blobs", max(large.blobs, key=lambda blob: len(blob.data))),
    )
    return small | {f"{REPOSITORY}:large": large}, content


def _part(kind: str, blob: Blob) -> Part:
    registry, _, repository = REPOSITORY.partition("/")
    return Part(
        f"/v2/{repository}/{kind}/{blob.digest}?ns={registry}", blob.digest.hex, len(blob.data)
    )
