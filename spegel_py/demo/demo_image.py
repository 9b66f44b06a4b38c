"""The image of the demonstration, made here with one very large layer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from spegel_py.errors import ConfigError
from spegel_py.oci import build
from spegel_py.oci.manifest import Child, children
from spegel_py.pull.plan import Platform
from spegel_py.store.layout import LayoutWriter

MB = 1_000_000

NAME = "demo.local/spegel-py/demo:latest"
"""Name of the image. No such registry exists, so the image can come from the nodes only."""

FRESH_NAME = "demo.local/spegel-py/fresh:latest"
"""Name of the image of phase 3, which at first only a registry of the demonstration has."""

CUT_SIZE = 12 * MB
"""Bytes that the largest layer must have.

A layer up to 4 MiB is verified before its first byte is sent, so no node can be killed in its
middle. Of a larger one, up to 6 MB were measured in the sockets' buffers when the sender died; the
kernel's defaults allow 10 MB (tcp_wmem, tcp_rmem).
"""

LEAST_LARGEST = 16 * MB
"""Bytes of the largest layer of a made image, at least, even if a half of the image is less."""


PIECE = 16 * MB
"""Random bytes generated at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoImage:
    """An image that is complete in a layout: all its manifests, root first, and its blobs."""

    name: str
    platform: Platform | None
    """The platform to pull; None for all platforms."""
    manifests: tuple[Child, ...]
    blobs: tuple[Child, ...]
    tags: tuple[str, ...] = ()
    """Names of all images in the layout or archive; this image is the first."""

    @property
    def all(self) -> tuple[Child, ...]:
        """The manifests and blobs that a layout must have in the end."""
        return (*self.manifests, *self.blobs)

    @property
    def size(self) -> int:
        """Bytes of all manifests and blobs."""
        return sum(child.size for child in self.all)

    @property
    def largest(self) -> Child:
        """The blob during which a node is killed."""
        return max(self.blobs, key=lambda blob: blob.size)

    def check(self) -> None:
        """Raise ConfigError if no layer is large enough to kill a node in its middle."""
        if not self.blobs or self.largest.size < CUT_SIZE:
            largest = self.largest.size if self.blobs else 0
            raise ConfigError(
                f"the largest layer of {self.name} has {largest} bytes; to kill a node in its "
                "middle it needs "
                f"{CUT_SIZE}: give another --image, or none"
            )


def shown(size: int) -> str:
    """Return a number of bytes as text for people."""
    return f"{size / MB:.1f} MB" if size >= MB / 10 else f"{size / 1000:.1f} kB"


def layer_sizes(size: int, layers: int) -> list[int]:
    """Return the layers' sizes in bytes, which add up to `size`.

    The first is large, as base layers are.
    """
    if layers == 1:
        return [size]
    largest = max(size // 2, min(LEAST_LARGEST, size * 2 // 3))
    weights = range(layers - 1, 0, -1)
    rest = [(size - largest) * weight // sum(weights) for weight in weights]
    return [size - sum(rest), *rest]


def make(
    writer: LayoutWriter, *, size: int, layers: int, seed: str = "demo", name: str = NAME
) -> DemoImage:
    """Write an image of about `size` bytes into a layout. Blocks: two seconds for 100 MB."""
    made = build.image(
        [_layer(seed, number, each) for number, each in enumerate(layer_sizes(size, layers))]
    )
    for blob in reversed(made.blobs):
        writer.put(blob.data)
    root = Child(made.root.digest, len(made.root.data), made.media_type)
    writer.tag(name, root)
    return DemoImage(name=name, platform=None, manifests=(root,), blobs=children(made.root.data))


def _layer(seed: str, number: int, size: int) -> build.Layer:
    """Return a layer of incompressible files.

    All but the large first layer have compressible files too.
    """
    # Text is seeded through sha512, so the layer is the same in every run.
    rng = random.Random(f"{seed}/{number}")
    files: dict[str, bytes | build.Symlink | build.Executable] = {
        f"data/{number}/noise.bin": _noise(rng, size)
    }
    if number:
        files[f"data/{number}/words.txt"] = f"layer {number} of a demonstration\n".encode() * (
            size // 100
        )
    return build.layer(files, level=1 if number else 0)


def _noise(rng: random.Random, size: int) -> bytes:
    """Return random bytes; one call of `randbytes` returns 256 MiB at most."""
    return b"".join(rng.randbytes(min(PIECE, size - at)) for at in range(0, size, PIECE))
