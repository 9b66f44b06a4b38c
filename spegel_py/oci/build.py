"""Images built in memory, for demonstrations and tests. Nothing is written here."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)


@dataclass(frozen=True, slots=True)
class MediaTypes:
    """The media types that a format gives to the parts of an image."""

    index: str
    manifest: str
    config: str
    layer: str


OCI = MediaTypes(OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
DOCKER = MediaTypes(DOCKER_INDEX, DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP)


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and their digest."""

    data: bytes = field(repr=False)
    digest: Digest

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Blob:
        """Return the blob of `data`."""
        return cls(data, Digest.of(data, algorithm))


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed file tree, and the digest of the uncompressed tree (the config's `diff_id`)."""

    blob: Blob
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index with all content below it.

    `blobs` starts with `root` and has each blob once.
    """

    root: Blob
    media_type: str
    blobs: tuple[Blob, ...]
    architecture: str = ""
    os: str = ""


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link in a layer."""

    target: str


@dataclass(frozen=True, slots=True)
class Executable:
    """An executable file in a layer."""

    data: bytes = field(repr=False)


def layer(
    files: Mapping[str, bytes | Symlink | Executable], *, level: int = 1, algorithm: str = "sha256"
) -> Layer:
    """Return a layer with these files and their folders. gzip `level` 0 stores without compression
    (fast).
    """
    archive = _tar(files)
    packed = gzip.compress(archive, level, mtime=0)
    return Layer(Blob.of(packed, algorithm), Digest.of(archive))


def image(
    layers: Sequence[Layer],
    *,
    architecture: str = "amd64",
    os: str = "linux",
    command: Sequence[str] = ("/bin/sh",),
    types: MediaTypes = OCI,
    algorithm: str = "sha256",
) -> Image:
    """Return the image of one platform."""
    config = Blob.of(
        _json(
            {
                "created": "2024-01-01T00:00:00Z",
                "architecture": architecture,
                "os": os,
                "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
                "rootfs": {"type": "layers", "diff_ids": [str(one.diff_id) for one in layers]},
                "history": [{"created_by": "spegel-py"}] * len(layers),
            }
        ),
        algorithm,
    )
    document = {
        "schemaVersion": 2,
        "mediaType": types.manifest,
        "config": descriptor(config, types.config),
        "layers": [descriptor(one.blob, types.layer) for one in layers],
    }
    root = Blob.of(_json(document), algorithm)
    return Image(
        root, types.manifest, _unique(root, config, *(one.blob for one in layers)), architecture, os
    )


def index(images: Sequence[Image], *, types: MediaTypes = OCI, algorithm: str = "sha256") -> Image:
    """Return the index over images of several platforms."""
    entries = [
        descriptor(one.root, one.media_type)
        | {"platform": {"architecture": one.architecture, "os": one.os}}
        for one in images
    ]
    document = {"schemaVersion": 2, "mediaType": types.index, "manifests": entries}
    root = Blob.of(_json(document), algorithm)
    return Image(root, types.index, _unique(root, *(blob for one in images for blob in one.blobs)))


def descriptor(blob: Blob, media_type: str) -> dict[str, object]:
    """Return the blob's descriptor for a manifest."""
    return {"mediaType": media_type, "digest": str(blob.digest), "size": len(blob.data)}


def _tar(files: Mapping[str, bytes | Symlink | Executable]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in _folders(files):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, Symlink):
                entry.type, entry.linkname = tarfile.SYMTYPE, content.target
                archive.addfile(entry)
                continue
            data = content.data if isinstance(content, Executable) else content
            entry.size, entry.mode = len(data), 0o755 if isinstance(content, Executable) else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _folders(files: Mapping[str, object]) -> list[str]:
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return sorted(parents - {"."})


def _json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _unique(*blobs: Blob) -> tuple[Blob, ...]:
    return tuple({blob.digest: blob for blob in blobs}.values())
