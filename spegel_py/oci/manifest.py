"""Manifests and indexes: what they are and which content they name (OCI image spec; Docker's schema 2).

The bytes come from strangers (a layout folder, another peer), so every field is checked before it is used,
and unknown fields are let pass. A document that could be read both as an index and as an image manifest is
refused: two readers must never see two different images in the same bytes (CVE-2021-41190).
"""

from __future__ import annotations

import json
from typing import NamedTuple

from spegel_py.errors import DigestInvalid, ManifestInvalid
from spegel_py.oci.digest import Digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
"""Media types whose children are manifests."""

MANIFESTS = INDEXES | {OCI_MANIFEST, DOCKER_MANIFEST}
"""Media types that are asked for under `/manifests/` and have children."""

MAX_MANIFEST = 4 * 1024 * 1024
"""Longest manifest in bytes; the limit that the distribution spec asks registries to support."""

_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


class Child(NamedTuple):
    """What a manifest says of one piece of content below it."""

    digest: Digest
    size: int
    media_type: str


def detect(data: bytes) -> str | None:
    """Return the media type of a manifest's bytes, or None if they are not a manifest.

    It is what `mediaType` says, or where that is absent (the OCI spec allows it) what the shape says.
    """
    try:
        return _media_type(_document(data))
    except ManifestInvalid:
        return None


def children(data: bytes) -> tuple[Child, ...]:
    """Return what a manifest names: an index's manifests, or an image's config and then its layers, in order.

    Left out: `subject`, which points up and not down, and layers that must not be redistributed (foreign
    layers, which lie at their own URLs). Raises ManifestInvalid.
    """
    document = _document(data)
    if _media_type(document) in INDEXES:
        return tuple(_child(entry) for entry in _entries(document, "manifests"))
    layers = (_child(entry) for entry in _entries(document, "layers"))
    return (_child(document.get("config")), *(layer for layer in layers if not _is_foreign(layer)))


def _document(data: bytes) -> dict[str, object]:
    if len(data) > MAX_MANIFEST:
        raise ManifestInvalid(f"a manifest has at most {MAX_MANIFEST} bytes, not {len(data)}")
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid("a manifest is a JSON document in UTF-8") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("a manifest is a JSON object")
    return document


def _media_type(document: dict[str, object]) -> str:
    if document.get("schemaVersion") != 2:
        raise ManifestInvalid("a manifest has schemaVersion 2")
    shape, named = _shape(document), document.get("mediaType")
    if named is None:
        return shape
    if not isinstance(named, str) or named not in MANIFESTS:
        raise ManifestInvalid(f"not the media type of a manifest: {str(named)[:160]!r}")
    if (named in INDEXES) != (shape in INDEXES):
        raise ManifestInvalid(f"a manifest that says {named} but does not look like one")
    return named


def _shape(document: dict[str, object]) -> str:
    is_index, is_image = "manifests" in document, "layers" in document or "config" in document
    if is_index == is_image:
        raise ManifestInvalid("a manifest has either manifests, or a config and layers")
    if is_index:
        return OCI_INDEX
    config = document.get("config")
    is_docker = isinstance(config, dict) and config.get("mediaType") == DOCKER_CONFIG
    return DOCKER_MANIFEST if is_docker else OCI_MANIFEST


def _entries(document: dict[str, object], field: str) -> list[object]:
    entries = document.get(field)
    if entries is None:  # Go writes an empty list as null
        return []
    if not isinstance(entries, list):
        raise ManifestInvalid(f"{field} of a manifest is a list")
    return entries


def _child(entry: object) -> Child:
    if not isinstance(entry, dict):
        raise ManifestInvalid("a descriptor in a manifest is a JSON object")
    digest, size, media_type = entry.get("digest"), entry.get("size"), entry.get("mediaType", "")
    if not isinstance(digest, str) or not isinstance(media_type, str):
        raise ManifestInvalid("a descriptor in a manifest has a digest and a media type as strings")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise ManifestInvalid("a descriptor in a manifest has a size that is a whole number of bytes")
    try:
        return Child(Digest.parse(digest), size, media_type)
    except DigestInvalid as error:
        raise ManifestInvalid(f"a descriptor in a manifest names no digest: {error.message}") from error


def _is_foreign(layer: Child) -> bool:
    return layer.media_type.startswith(_FOREIGN)
