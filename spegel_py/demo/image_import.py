"""Import of a user's image: an OCI layout folder, or an archive of one.

Nothing in it is trusted. Only the files of a layout are unpacked from an archive, after a check of
their names. No symbolic link in a folder is followed. Only content that the chosen image names is
copied, and every digest is verified.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spegel_py.demo.demo_image import DemoImage
from spegel_py.errors import ConfigError, ContentNotFound, ManifestInvalid, OCIError, SpegelError
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import INDEXES, MANIFESTS, MAX_MANIFEST, Child, all_children, detect
from spegel_py.oci.reference import Reference
from spegel_py.pull import plan
from spegel_py.pull.plan import Platform
from spegel_py.store.file_access import open_below
from spegel_py.store.layout import LayoutWriter

NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""Annotations that name an image in index.json.

containerd's is a full reference; the OCI specification's is often only a tag.
"""

_MEMBER = re.compile(r"(?:\./)?(oci-layout|index\.json|blobs/(?:sha256|sha512)/[0-9a-f]{64,128})")
_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """The image chosen from an index.json, with its full name;

    `tags` are the names of all images.
    """

    name: str
    root: Child
    tags: tuple[str, ...]


def choose(index: bytes) -> ChosenImage:
    """Return the first image of an index.json. Raises ManifestInvalid."""
    found = all_children(index)
    entries = json.loads(index).get("manifests") or []
    named = [
        (_name(entry), child)
        for child, entry in zip(found, entries, strict=True)
        if child.media_type in MANIFESTS or not child.media_type
    ]
    if not named:
        raise ManifestInvalid("its index.json names no image")
    name, root = named[0]
    return ChosenImage(name, root, tuple(dict.fromkeys(name for name, _ in named)))


def import_image(path: Path, writer: LayoutWriter, scratch: Path) -> DemoImage:
    """Copy the first image at `path` into a layout, verified. Blocks.

    `scratch` is a folder for unpacking an archive. Raises ConfigError, in one line with the path,
    for a missing, damaged or unsuitable file.
    """
    try:
        root = path if path.is_dir() else _unpacked(path, scratch)
        return _copy(root, writer)
    except ConfigError:
        raise
    except (
        SpegelError,
        OSError,
        tarfile.TarError,
        EOFError,
        zlib.error,
        ValueError,
        RecursionError,
    ) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"--image {path}: {text}; give an OCI image layout or an OCI archive of one"
        ) from error


def _unpacked(path: Path, scratch: Path) -> Path:
    """Unpack the regular files of an archive's layout, after a check of their names."""
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            match = _MEMBER.fullmatch(member.name)
            content = archive.extractfile(member) if match and member.isreg() else None
            if match is None or content is None:
                continue
            if member.size > shutil.disk_usage(scratch).free:
                raise ConfigError(
                    f"{scratch} has no room for the {member.size} bytes of {member.name[:100]} in "
                    f"{path}"
                )
            target = scratch / match[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
    return scratch


def _copy(root: Path, writer: LayoutWriter) -> DemoImage:
    try:
        _read(root, "oci-layout")
        chosen = choose(_read(root, "index.json"))
    except ContentNotFound as error:
        raise ManifestInvalid(f"it is no OCI image layout: {error}") from error
    platform, manifests = _complete(root, chosen.root)
    blobs = plan.blobs(data for child, data in manifests if child.media_type not in INDEXES)
    for blob in blobs:
        _copy_blob(root, writer, blob)
    for child, data in reversed(manifests):
        writer.put(data, child.digest.algorithm)
    writer.tag(chosen.name, manifests[0][0])
    found = tuple(child for child, _ in manifests)
    return DemoImage(
        name=chosen.name, platform=platform, manifests=found, blobs=blobs, tags=chosen.tags
    )


def _complete(root: Path, image: Child) -> tuple[Platform | None, list[tuple[Child, bytes]]]:
    """Return the first complete platform, with its manifests.

    This machine's platform is tried first. An archive often has the content of only one of the
    platforms that its index names.
    """
    first = _manifest(root, image)
    if first[0].media_type not in INDEXES:
        return None, [first]
    missing: SpegelError | None = None
    for platform in dict.fromkeys(
        (Platform.here(), *(found for _, found in plan.platforms(first[1]) if found))
    ):
        try:
            manifests = [first, *_below(root, first[1], platform, 0)]
            for blob in plan.blobs(
                data for child, data in manifests if child.media_type not in INDEXES
            ):
                os.close(_open(root, blob.digest))
            return platform, manifests
        except (ConfigError, ContentNotFound) as error:
            missing = missing or error
    raise ManifestInvalid(f"no platform of it is there in full: {missing}")


def _below(
    root: Path, index: bytes, platform: Platform, depth: int
) -> Iterator[tuple[Child, bytes]]:
    if depth > 3:
        raise ManifestInvalid("too many indexes within each other")
    for child in plan.select(index, platform):
        found = _manifest(root, child)
        yield found
        if found[0].media_type in INDEXES:
            yield from _below(root, found[1], platform, depth + 1)


def _manifest(root: Path, child: Child) -> tuple[Child, bytes]:
    data = _read(root, "blobs", child.digest.algorithm, child.digest.hex)
    media_type = detect(data)
    if not child.digest.matches(data) or media_type is None:
        raise ManifestInvalid(f"{child.digest} is damaged, or no manifest")
    return Child(child.digest, len(data), media_type), data


def _copy_blob(root: Path, writer: LayoutWriter, blob: Child) -> None:
    """Copy one blob; the writer verifies it. Raises DigestMismatch."""
    with os.fdopen(_open(root, blob.digest), "rb") as file, writer.begin(blob.digest) as part:
        part.restart()
        while piece := file.read(_CHUNK):
            part.write(piece)
        part.commit()


def _open(root: Path, digest: Digest) -> int:
    return open_below(root, "blobs", digest.algorithm, digest.hex)


def _read(root: Path, *parts: str) -> bytes:
    with os.fdopen(open_below(root, *parts), "rb") as file:
        return file.read(MAX_MANIFEST + 1)


def _name(entry: dict[str, object]) -> str:
    """Return an entry's full name; an entry with only a tag, or no name, gets a demo.local name."""
    annotations = entry.get("annotations")
    values = [annotations.get(key) for key in NAMES] if isinstance(annotations, dict) else []
    names = [value for value in values if isinstance(value, str)]
    for text in (*names, *(f"demo.local/image:{name}" for name in names)):
        try:
            if Reference.parse(text).name == text:
                return text
        except OCIError:
            continue
    return "demo.local/image:latest"
