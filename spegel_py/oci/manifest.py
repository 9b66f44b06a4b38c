"""Manifests and indexes, and the content that they name (OCI image spec; Docker's schema 2).

The bytes come from untrusted sources (a layout folder, another peer), so every field is checked
before its use. Unknown fields are ignored. A document that can be read both as an index and as an
image manifest is refused: two readers must never see two different images in the same bytes
(CVE-2021-41190).

Each client decides itself whether it accepts a manifest, so this reader is lenient. Registries and
runtimes accept manifests without `schemaVersion`, with an empty `mediaType`, and with null for an
empty list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
"""Media types that are requested under `/manifests/` and have children."""

MAX_MANIFEST = 4 * 1024 * 1024
"""Bytes of the longest manifest: the limit that the distribution spec asks registries to support.
"""

_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


class Child(NamedTuple):
    """A manifest's descriptor of one piece of content below it."""

    digest: Digest
    size: int
    media_type: str


def detect(data: bytes) -> str | None:
    """Return the media type of a manifest's bytes, or None if they are not a manifest.

    It is the value of `mediaType`. The OCI spec allows that to be absent; then the fields decide.
    """
    try:
        return _media_type(_document(data))
    except ManifestInvalid:
        return None


class ParsedManifest(NamedTuple):
    """A manifest's media type, and the shareable content that it names."""

    media_type: str
    children: tuple[Child, ...]


def children(data: bytes) -> tuple[Child, ...]:
    """Return the shareable content that a manifest names, in the manifest's order.

    These are an index's manifests, or an image's config followed by its layers. `subject` is left
    out because it points up. Foreign layers are left out because they must not be redistributed and
    have URLs of their own. An unusable descriptor is left out without its neighbours. A size that
    is missing or malformed never counts as 0. Raises ManifestInvalid.
    """
    return parse(data).children


def parse(data: bytes) -> ParsedManifest:
    """Return the results of `detect` and `children` from one reading. Raises ManifestInvalid."""
    document = _document(data)
    media_type = _media_type(document)
    found = (_usable(entry) for entry in _entries(document, media_type))
    shared = _shared((child for child in found if child is not None), media_type)
    return ParsedManifest(media_type, shared)


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest that refers to a `subject`, as a signature does (image spec, "subject").

    Args:
        artifact_type: the manifest's own one, or the media type of its config; empty for none.
        annotations: the manifest's annotations.
    """

    subject: Digest
    media_type: str
    artifact_type: str
    annotations: Mapping[str, str]


def referrer(data: bytes) -> Referrer | None:
    """Return what a manifest's bytes refer to, or None if they are no manifest with a subject."""
    try:
        document = _document(data)
        media_type = _media_type(document)
        subject = _child(document.get("subject")).digest
    except ManifestInvalid:
        return None
    config, annotations = document.get("config"), document.get("annotations")
    found = document.get("artifactType") or (
        config.get("mediaType") if isinstance(config, dict) and media_type not in INDEXES else ""
    )
    return Referrer(
        subject=subject,
        media_type=media_type,
        artifact_type=found if isinstance(found, str) else "",
        annotations=texts(annotations),
    )


def texts(found: object) -> dict[str, str]:
    """Return the entries of an unchecked JSON object whose values are strings."""
    entries = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in entries if isinstance(value, str)}


def all_children(data: bytes) -> tuple[Child, ...]:
    """Return the result of `children` for a reader that needs the whole image.

    Raises ManifestInvalid also for an unusable descriptor and for an image without a config,
    because the rest would be mistaken for the whole image.
    """
    document = _document(data)
    media_type = _media_type(document)
    return _shared(_all(document, media_type), media_type)


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
    version, named = document.get("schemaVersion"), document.get("mediaType")
    if version not in (None, 2):
        raise ManifestInvalid("a manifest has schemaVersion 2")
    # Case 1: no media type is given, so the fields imply it.
    if named in (None, ""):
        shape = _shape(document, None)
        if version is None and not _all(document, shape):  # a config has a `config` of its own
            raise ManifestInvalid("nothing in the document says that it is a manifest")
        return shape
    # Case 2: a media type is given, and the fields must agree with it.
    if not isinstance(named, str) or named not in MANIFESTS:
        raise ManifestInvalid(f"not the media type of a manifest: {str(named)[:160]!r}")
    if (named in INDEXES) != (_shape(document, named) in INDEXES):
        raise ManifestInvalid(f"a manifest that says {named} but does not look like one")
    return named


def _shape(document: dict[str, object], named: str | None) -> str:
    """Return the media type that a manifest's fields imply. Raises ManifestInvalid.

    Case 1: the fields of one kind have content. Null or an empty list is no content of the other
    kind.

    Case 2: no field has content, as in an empty index. The kind whose fields exist is taken.

    Case 3: the empty fields of both kinds exist. The kind that the manifest names is taken.
    """
    is_index = _has_content(document, "manifests")
    is_image = _has_content(document, "config") or _has_content(document, "layers")
    if not is_index and not is_image:
        is_index = "manifests" in document
        is_image = "config" in document or "layers" in document
        if is_index and is_image and named is not None:
            is_index, is_image = named in INDEXES, named not in INDEXES
    if is_index == is_image:
        raise ManifestInvalid("a manifest has either manifests, or a config and layers")
    if is_index:
        return OCI_INDEX
    config = document.get("config")
    is_docker = isinstance(config, dict) and config.get("mediaType") == DOCKER_CONFIG
    return DOCKER_MANIFEST if is_docker else OCI_MANIFEST


def _has_content(document: dict[str, object], field: str) -> bool:
    value = document.get(field)
    return value is not None and value != []


def _entries(document: dict[str, object], media_type: str) -> list[object]:
    """Return the unchecked descriptors of a manifest. A malformed list counts as empty."""
    if media_type in INDEXES:
        return _list(document, "manifests")
    return [document.get("config"), *_list(document, "layers")]


def _all(document: dict[str, object], media_type: str) -> list[Child]:
    """Return all descriptors of a manifest. Raises ManifestInvalid if one is unusable."""
    for field in ("manifests",) if media_type in INDEXES else ("layers",):
        if not isinstance(document.get(field, []), list | None):
            raise ManifestInvalid(f"{field} of a manifest is a list")
    return [_child(entry) for entry in _entries(document, media_type)]


def _list(document: dict[str, object], field: str) -> list[object]:
    entries = document.get(field)
    return entries if isinstance(entries, list) else []  # Go writes an empty list as null


def _shared(found: Iterable[Child], media_type: str) -> tuple[Child, ...]:
    """Return the content that may be redistributed."""
    return tuple(child for child in found if media_type in INDEXES or not _is_foreign(child))


def _usable(entry: object) -> Child | None:
    try:
        return _child(entry)
    except ManifestInvalid:
        return None


def _child(entry: object) -> Child:
    if not isinstance(entry, dict):
        raise ManifestInvalid("a descriptor in a manifest is a JSON object")
    digest, size = entry.get("digest"), entry.get("size")
    media_type = "" if entry.get("mediaType") is None else entry["mediaType"]
    if not isinstance(digest, str) or not isinstance(media_type, str):
        raise ManifestInvalid("a descriptor in a manifest has a digest and a media type as strings")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise ManifestInvalid(
            "a descriptor in a manifest has a size that is a whole number of bytes"
        )
    try:
        return Child(Digest.parse(digest), size, media_type)
    except DigestInvalid as error:
        raise ManifestInvalid(
            f"a descriptor in a manifest names no digest: {error.message}"
        ) from error


def _is_foreign(layer: Child) -> bool:
    return layer.media_type.startswith(_FOREIGN)
