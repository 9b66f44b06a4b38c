"""Real images for tests, in an OCI layout folder, made in milliseconds."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

from spegel_py.oci import build
from spegel_py.oci.manifest import OCI_MANIFEST, Child
from spegel_py.store.layout import LayoutWriter
from spegel_py.store.layout.folder import REF_NAME

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "ls", "cat", "echo", "sleep", "sha256sum", "httpd", "wget")


def image(
    seed: str = "app",
    *,
    layers: int = 2,
    size: int = 4096,
    platforms: Sequence[str] = ("amd64",),
    is_runnable: bool = False,
    types: build.MediaTypes = build.OCI,
    algorithm: str = "sha256",
) -> build.Image:
    """Return an image whose layers hold `size` random bytes each; equal arguments give equal
    images.

    With more than one platform it is an index over them. A runnable one begins with a busybox layer
    besides.
    """
    found = [
        build.image(
            ([runnable_layer()] if is_runnable else [])
            + [
                random_layer(f"{seed}/{platform}/{number}", size, algorithm)
                for number in range(layers)
            ],
            architecture=platform,
            types=types,
            algorithm=algorithm,
        )
        for platform in platforms
    ]
    return found[0] if len(found) == 1 else build.index(found, types=types, algorithm=algorithm)


def signature(
    subject: build.Image,
    *,
    kind: str = "application/vnd.example.signature",
    seed: str = "",
    algorithm: str = "sha256",
) -> build.Image:
    """Return an artifact that refers to an image, with an empty config, as cosign and oras make
    it.
    """
    empty = build.Blob.of(b"{}", algorithm)
    payload = build.Blob.of(f"signed {subject.root.digest} {seed}".encode(), algorithm)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": build.descriptor(empty, "application/vnd.oci.empty.v1+json"),
        "layers": [build.descriptor(payload, "text/plain")],
        "subject": build.descriptor(subject.root, subject.media_type),
        "annotations": {"made.by": "a test"},
    }
    root = build.Blob.of(json.dumps(document).encode(), algorithm)
    return build.Image(root, OCI_MANIFEST, (root, empty, payload))


def random_layer(seed: str, size: int, algorithm: str = "sha256") -> build.Layer:
    """Return a layer of one file with bytes that do not compress."""
    data = random.Random(seed).randbytes(
        size
    )  # a str is seeded through sha512: the same in every run
    return build.layer({f"data/{seed.replace('/', '-')}.bin": data}, level=0, algorithm=algorithm)


def runnable_layer() -> build.Layer:
    """Return a layer with a shell and a few tools, of the machine the test runs on."""
    tools: dict[str, bytes | build.Symlink | build.Executable] = {
        f"bin/{name}": build.Symlink("busybox") for name in APPLETS
    }
    return build.layer(
        {"bin/busybox": build.Executable(BUSYBOX.read_bytes())}
        | tools
        | {"etc/passwd": b"root:x:0:0::/:/bin/sh\n", "tmp/.keep": b""}
    )


def write_layout(root: Path, images: dict[str, build.Image]) -> LayoutWriter:
    """Add these images, by full tag name, to the layout at `root`, made if it is not there."""
    writer = LayoutWriter.create(root=root, is_durable=False)
    for name, one in images.items():
        add(writer, one, name)
    return writer


def add(writer: LayoutWriter, one: build.Image, *names: str) -> None:
    """Write an image's blobs, children before parents, and tag it."""
    for blob in reversed(one.blobs):
        writer.put(blob.data, blob.digest.algorithm)
    for name in names:
        writer.tag(name, child(one))


def child(one: build.Image) -> Child:
    """Return the descriptor of an image's root."""
    return Child(one.root.digest, len(one.root.data), one.media_type)


def write_archive(path: Path, images: dict[str, build.Image]) -> Path:
    """Write these images as one tar archive that `ctr images import` and `skopeo oci-archive:`
    read.
    """
    layout = path.with_suffix(".layout")
    write_layout(layout, images)
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        entry["annotations"]["io.containerd.image.name"] = entry["annotations"][REF_NAME]
    (layout / "index.json").write_text(json.dumps(index))
    with tarfile.open(path, "w") as archive:
        for name in ("oci-layout", "index.json", "blobs/sha256"):
            archive.add(layout / name, name)
    return path
