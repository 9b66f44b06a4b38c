"""What is served: one image that the candidates hold, and one that only their peer has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci import build
from spegel_py.oci.build import Blob, Image, Layer
from spegel_py.oci.digest import Digest
from tests.benchmarks.dataplane.plan import Source
from tests.support import images


@dataclass(frozen=True, slots=True)
class Served:
    """The digests of an image: its manifest's, and those of its blobs by the names of the plan."""

    manifest: Digest
    blobs: Mapping[str, Digest]


@dataclass(frozen=True, slots=True)
class Content:
    """Both images by where they come from."""

    served: Mapping[Source, Served]

    def blob(self, source: Source, name: str) -> str:
        """Return the path of a request for a blob."""
        return _path("blobs", self.served[source].blobs[name])

    def manifest(self) -> str:
        """Return the path of a request for the manifest that candidates hold."""
        return _path("manifests", self.served["local"].manifest)

    def paths(self) -> dict[str, Digest]:
        """Return the path of everything that is asked for, with the digest of what is to come."""
        blobs = {
            _path("blobs", digest): digest
            for served in self.served.values()
            for digest in served.blobs.values()
        }
        return blobs | {self.manifest(): self.served["local"].manifest}


def make(sizes: Mapping[str, int]) -> tuple[Image, Served]:
    """Return an image with one blob of each size; no two have equal bytes."""
    layers = {name: _layer(size) for name, size in sizes.items()}
    image = build.image(list(layers.values()))
    return image, Served(image.root.digest, {name: one.blob.digest for name, one in layers.items()})


def write_layout(root: Path, image: Image) -> Path:
    """Write an image into an OCI layout and return the folder of its blobs."""
    images.write_layout(root, {"registry.test/bench/peer:1": image})
    return root / "blobs" / "sha256"


def _layer(size: int) -> Layer:
    """Return bytes as a layer that nobody unpacks, so they need not be an archive."""
    piece = os.urandom(1 << 20)
    return Layer(Blob.of((piece * (size // len(piece) + 1))[:size]), Digest.of(b""))


def _path(kind: str, digest: Digest) -> str:
    return f"/v2/bench/app/{kind}/{digest}?ns=registry.test"
