"""The image that is shared: made here, with one layer that is much larger than the others. What is made is pure."""

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
"""What the image is called; no such registry exists, so nothing can come from anywhere but the nodes."""

FRESH_NAME = "demo.local/spegel-py/fresh:latest"
"""What the image is called that no node has at first, but a registry of the demonstration."""

CUT_SIZE = 12 * MB
"""Least size in bytes of the largest layer. Layers up to 4 MiB are verified before their first byte is sent, so nobody
can be killed in their middle; and of larger ones up to 6 MB were seen to be on their way already when the sender died,
of 10 that the kernel's defaults allow (tcp_wmem, tcp_rmem)."""

LEAST_LARGEST = 16 * MB
"""Size in bytes that the largest layer of a made image gets even if that is more than half of it."""


PIECE = 16 * MB
"""Random bytes made at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """An image that lies complete in a layout: all its manifests, root first, and its blobs."""

    name: str
    platform: Platform | None
    """What to pull of it; None for all."""
    manifests: tuple[Child, ...]
    blobs: tuple[Child, ...]
    tags: tuple[str, ...] = ()
    """All images that were there to choose from, by name; this one is the first."""

    @property
    def all(self) -> tuple[Child, ...]:
        """Everything that must be there in the end."""
        return (*self.manifests, *self.blobs)

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(child.size for child in self.all)

    @property
    def largest(self) -> Child:
        """The blob in whose middle a node is killed."""
        return max(self.blobs, key=lambda blob: blob.size)

    def check(self) -> None:
        """Raise ConfigError if no layer is large enough for a node to be killed in its middle."""
        if not self.blobs or self.largest.size < CUT_SIZE:
            largest = self.largest.size if self.blobs else 0
            raise ConfigError(
                f"the largest layer of {self.name} has {largest} bytes; to kill a node in its middle it needs "
                f"{CUT_SIZE}: give another --image, or none"
            )


def shown(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / MB:.1f} MB" if size >= MB / 10 else f"{size / 1000:.1f} kB"


def layer_sizes(size: int, layers: int) -> list[int]:
    """Return the layers' sizes in bytes, which add up to `size`: a large one first, as base layers are."""
    if layers == 1:
        return [size]
    largest = max(size // 2, min(LEAST_LARGEST, size * 2 // 3))
    weights = range(layers - 1, 0, -1)
    rest = [(size - largest) * weight // sum(weights) for weight in weights]
    return [size - sum(rest), *rest]


def make(
    writer: LayoutWriter, *, size: int, layers: int, seed: str = "demo", name: str = NAME
) -> Content:
    """Write an image of about `size` bytes into a layout, under `name`. Blocks, for two seconds for 100 MB."""
    made = build.image(
        [_layer(seed, number, each) for number, each in enumerate(layer_sizes(size, layers))]
    )
    for blob in reversed(made.blobs):
        writer.put(blob.data)
    root = Child(made.root.digest, len(made.root.data), made.media_type)
    writer.tag(name, root)
    return Content(name=name, platform=None, manifests=(root,), blobs=children(made.root.data))


def _layer(seed: str, number: int, size: int) -> build.Layer:
    """Return a layer of files that do not compress and, but for the first and large one, of some that do."""
    rng = random.Random(
        f"{seed}/{number}"
    )  # a text is seeded through sha512: the same in every run
    files: dict[str, bytes | build.Symlink | build.Executable] = {
        f"data/{number}/noise.bin": _noise(rng, size)
    }
    if number:
        files[f"data/{number}/words.txt"] = f"layer {number} of a demonstration\n".encode() * (
            size // 100
        )
    return build.layer(files, level=1 if number else 0)


def _noise(rng: random.Random, size: int) -> bytes:
    """Return random bytes; `randbytes` alone makes no more than 256 MiB."""
    return b"".join(rng.randbytes(min(PIECE, size - at)) for at in range(0, size, PIECE))
