"""The folder as it lies on disk (OCI image spec, image-layout.md): blocking, and nothing is trusted.

Whoever can write into the folder decides what this node offers, so nothing is followed that leads out of it:
blobs are regular files directly under `blobs/<algorithm>/`, named by their hex digits; no symbolic links.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from spegel_py.errors import ConfigError, DigestInvalid, OCIError, StoreError, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.store.base import Tag
from spegel_py.store.files import Signature, open_below, open_folder

MARKER = "oci-layout"
"""The file that makes a folder a layout; while it is missing the folder is away (an unmounted disk)."""

INDEX = "index.json"
BLOBS = "blobs"
VERSION = "1.0.0"
ALGORITHMS = ("sha256", "sha512")

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag; here it is always a full reference, `registry/repository:tag`."""

PULLED = "spegel-py.pulled"
"""The annotation that says when a tag was pulled, in ISO 8601; what other tools write has none."""

MAX_INDEX = 16 * 1024 * 1024
"""Longest index.json in bytes that is read: some 50,000 images."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies under `blobs`: files with a digest's name, and the names that were refused."""

    blobs: dict[Digest, Signature]
    refused: frozenset[str]


def check_layout(root: Path) -> None:
    """Raise ConfigError, in one line that says what to do, unless `root` is a layout that can be read."""
    advice = "give an OCI image layout, or make one with `spegel-py pull`"
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder; {advice}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise ConfigError(f"{root} cannot be read by user {os.geteuid()}; change its owner or mode")
    try:
        marker = json.loads(_read(root, MARKER))
        read_index(root)
    except (StoreError, ValueError, RecursionError) as error:
        raise ConfigError(f"{root} is not an OCI image layout: {error}; {advice}") from error
    version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
    if version != VERSION:
        raise ConfigError(
            f"{root} is an OCI image layout of version {version!r}, not {VERSION}; {advice}"
        )


def identity(root: Path) -> tuple[int, int]:
    """Return what tells this folder from another at its path, or raise StoreUnavailable if it is away."""
    try:
        (root / MARKER).lstat()
        status = root.stat()
    except OSError as error:
        raise StoreUnavailable(f"the image layout {root} is not there: {error.strerror}") from error
    return status.st_dev, status.st_ino


def read_index(root: Path) -> dict[str, Tag]:
    """Return the tags of index.json; entries without a full reference are no tags.

    A tag was pulled when its entry says so, else when the file was written last.

    Raises ContentNotFound where there is no such file, ValueError where it is not an index.
    """
    document = json.loads(_read(root, INDEX))
    entries = document.get("manifests") if isinstance(document, dict) else None
    if entries is None and isinstance(document, dict):
        entries = []
    if not isinstance(entries, list):
        raise ValueError(f"{INDEX} is not an image index")
    written = (root / INDEX).lstat().st_mtime
    return dict(tag for entry in entries if (tag := _tag(entry, written)))


def scan(root: Path) -> Scan:
    """Return what lies under `blobs` by name, unverified, or raise StoreUnavailable."""
    identity(root)
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
        except OSError as error:  # the disk fails
            raise StoreUnavailable(
                f"the image layout {root} cannot be read: {error.strerror}"
            ) from error
        finally:
            os.close(folder)
    return Scan(blobs, frozenset(refused))


def open_blob(root: Path, digest: Digest) -> int:
    """Return a descriptor of the blob's file, unverified; raises ContentNotFound or StoreUnavailable."""
    identity(root)
    return open_below(root, BLOBS, digest.algorithm, digest.hex)


def _scan(folder: int, algorithm: str, blobs: dict[Digest, Signature], refused: set[str]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                digest, status = (
                    Digest.parse(f"{algorithm}:{entry.name}"),
                    entry.stat(follow_symlinks=False),
                )
            except (DigestInvalid, FileNotFoundError):  # a temporary name; just removed
                continue
            if stat.S_ISREG(status.st_mode):
                blobs[digest] = Signature.of(status)
            else:
                refused.add(f"{BLOBS}/{algorithm}/{entry.name}")


def _read(root: Path, name: str) -> bytes:
    fd = open_below(root, name)
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_INDEX + 1)
    if len(data) > MAX_INDEX:
        raise ValueError(f"{name} is longer than {MAX_INDEX} bytes")
    return data


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
