"""The files of a layout (OCI image spec, image-layout.md), none of them trusted.

Anyone who can write into the folder decides what this node offers, so nothing may lead out of it.
Blobs are regular files directly under `blobs/<algorithm>/`, named by their hex digits. Symbolic
links are refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiofiles.os

from spegel_py.errors import ConfigError, DigestInvalid, OCIError, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.store.base import Tag
from spegel_py.store.file_access import Signature, open_file, open_folder, pread

MARKER = "oci-layout"
"""The file that marks a layout. While it is missing the folder is away, as with an unmounted disk.
"""

INDEX = "index.json"
BLOBS = "blobs"
VERSION = "1.0.0"
ALGORITHMS = ("sha256", "sha512")

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag. Here it is always a full reference, `registry/repository:tag`.
"""

PULLED = "spegel-py.pulled"
"""The annotation that holds the time of a tag's pull, in ISO 8601. Other tools do not write it."""

MAX_INDEX = 16 * 1024 * 1024
"""Bytes of the longest index.json that is read: some 50,000 images."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The files under `blobs` that are named by a digest, and the names that were refused."""

    blobs: dict[Digest, Signature]
    refused: frozenset[str]


async def check_layout(root: Path) -> None:
    """Raise ConfigError, in one line with advice, unless `root` is a readable layout."""
    advice = "give an OCI image layout, or make one with `spegel-py pull`"
    if not await aiofiles.os.path.isdir(root):
        raise ConfigError(f"{root} is not a folder; {advice}")
    if not await aiofiles.os.access(root, os.R_OK | os.X_OK):
        raise ConfigError(f"{root} cannot be read by user {os.geteuid()}; change its owner or mode")
    try:
        marker = json.loads((await _read(root, MARKER))[0])
        await read_index(root)
    except (StoreError, ValueError, RecursionError) as error:
        raise ConfigError(f"{root} is not an OCI image layout: {error}; {advice}") from error
    version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
    if version != VERSION:
        raise ConfigError(
            f"{root} is an OCI image layout of version {version!r}, not {VERSION}; {advice}"
        )


def layout_identity(root: Path) -> tuple[int, int]:
    """Return the device and inode of the folder, as its identity.

    Raises StoreUnavailable if it is away.
    """
    try:
        (root / MARKER).lstat()
        status = root.stat()
    except OSError as error:
        raise StoreUnavailable(f"the image layout {root} is not there: {error.strerror}") from error
    return status.st_dev, status.st_ino


async def read_index(root: Path) -> dict[str, Tag]:
    """Return the tags of index.json. Entries without a full reference are no tags.

    A tag's time of pull is the one in its entry, else the time of the file's last change.

    Raises ContentNotFound for a missing file, ValueError for a file that is not an index.
    """
    data, written = await _read(root, INDEX)
    return await asyncio.to_thread(_parse_index, data, written)  # parsing 16 MiB takes 0.5 s


def _parse_index(data: bytes, written: float) -> dict[str, Tag]:
    document = json.loads(data)
    entries = document.get("manifests") if isinstance(document, dict) else None
    if entries is None and isinstance(document, dict):
        entries = []
    if not isinstance(entries, list):
        raise ValueError(f"{INDEX} is not an image index")
    return dict(tag for entry in entries if (tag := _tag(entry, written)))


def scan_blobs(root: Path) -> Scan:
    """Return the names under `blobs`, without verifying content. Raises StoreUnavailable."""
    layout_identity(root)
    blobs: dict[Digest, Signature] = {}
    refused: set[str] = set()
    for algorithm in ALGORITHMS:
        try:
            folder = open_folder(root, BLOBS, algorithm)
        except FileNotFoundError:
            continue
        except OSError:
            refused.add(f"{BLOBS}/{algorithm}")
            continue
        try:
            _scan(folder, algorithm, blobs, refused)
        except OSError as error:  # a failing disk
            raise StoreUnavailable(
                f"the image layout {root} cannot be read: {error.strerror}"
            ) from error
        finally:
            os.close(folder)
    return Scan(blobs, frozenset(refused))


def _scan(folder: int, algorithm: str, blobs: dict[Digest, Signature], refused: set[str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                digest, status = (
                    Digest.parse(f"{algorithm}:{entry.name}"),
                    entry.stat(follow_symlinks=False),
                )
            except (DigestInvalid, FileNotFoundError):  # a temporary name, or a file just removed
                continue
            if stat.S_ISREG(status.st_mode):
                blobs[digest] = Signature.of(status)
            else:
                refused.add(f"{BLOBS}/{algorithm}/{entry.name}")


async def _read(root: Path, name: str) -> tuple[bytes, float]:
    """Return a small file's content and the Unix time of its last change."""
    # not by aiofiles.open, which leaves the file open if it is cancelled
    fd = await open_file(root, name)
    try:
        written = os.fstat(fd).st_mtime
        data = await pread(fd, MAX_INDEX + 1, 0)
    finally:
        os.close(fd)
    if len(data) > MAX_INDEX:
        raise ValueError(f"{name} is longer than {MAX_INDEX} bytes")
    return data, written


def _tag(entry: object, written: float) -> tuple[str, Tag] | None:
    if not isinstance(entry, dict):
        raise ValueError(f"an entry of {INDEX} is not an object")
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict) or not isinstance(name := annotations.get(REF_NAME), str):
        return None
    try:
        reference, digest = Reference.parse(name), Digest.parse(str(entry.get("digest")))
    except OCIError:
        return None
    return (
        (name, Tag(digest, _pulled(annotations.get(PULLED), written)))
        if reference.name == name
        else None
    )


def _pulled(text: object, written: float) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return written
