"""Lists of the distribution spec: a repository's tags, and the referrers of a manifest. Pure.

A node knows only the content of nodes, so its lists are partial: the registry may have more. Every
answer says so by PARTIAL_HEADER.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote

from spegel_py.errors import DigestInvalid, NameInvalid, NameUnknown, RequestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import (
    HOW_TO_NAME,
    NamedRepository,
    header_fields,
    is_mirrored,
    origin_form,
    parameter,
    segments,
)
from spegel_py.oci.manifest import MANIFESTS, MAX_MANIFEST, OCI_INDEX, texts
from spegel_py.oci.reference import check_tag

PARTIAL_HEADER = "X-Spegel-Partial"
"""Set to `true` on every list: the registry may have entries that no node holds."""

FILTERS_HEADER = "OCI-Filters-Applied"
"""Names the filters of a list of referrers (distribution spec, "Listing Referrers")."""

MAX_TAGS = 10_000
"""Tags of a list. More are left out: 10,000 have 1 MB at most."""

MAX_REFERRERS = 1000
"""Referrers of a list. An image has a handful."""


class ListKind(Enum):
    """The entries of a list."""

    TAGS = "tags"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """A valid request for a list.

    Args:
        registry: the canonical spelling; None for referrers that were requested without one.
        label: the name that filters are applied to, in the client's spelling.
        subject: the manifest whose referrers are requested; None for tags.
        path: the request's path, percent-encoded, for the link to the next page.
        query: the parameters that name the registry, for the same link.
        count: tags of a page at most; None for all.
        last: tag after which the page begins; empty for the first page.
        artifact_type: type of the requested referrers; empty for all.
        mirrored: True for a peer's request, which is answered from local content only.
    """

    kind: ListKind
    registry: str | None
    repository: str
    label: str
    subject: Digest | None = None
    path: str = ""
    query: str = ""
    count: int | None = None
    last: str = ""
    artifact_type: str = ""
    mirrored: bool = False

    @property
    def prefix(self) -> str:
        """The begin of the full names of the repository's tags, `registry/repository:`."""
        return f"{self.registry}/{self.repository}:"

    @property
    def target(self) -> str:
        """The request target of the whole list at a peer."""
        end = f"referrers/{self.subject}" if self.subject else "tags/list"
        ns = f"?ns={quote(self.registry, safe='')}" if self.registry else ""
        return f"/v2/{self.repository}/{end}{ns}"

    @classmethod
    def parse(
        cls,
        *,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        default_registry: str = "",
    ) -> ListRequest:
        """Return the request of a target, for which `is_list` is true, and of its header lines.

        Raises:
            NameInvalid, DigestInvalid: the path is malformed.
            NameUnknown: tags are requested without a registry.
            RequestInvalid: `n` is no number, or a parameter has two values.
        """
        path, _, query = origin_form(target).partition("?")
        *name, first, second = segments(path)
        kind = ListKind(first)
        fields = header_fields(headers)
        named = NamedRepository.parse("/".join(name), query, fields, default_registry)
        if kind is ListKind.TAGS and named.registry is None:
            raise NameUnknown(f"a list of tags needs its registry: {HOW_TO_NAME}")
        registry = named.namespace or named.registry
        ns = parameter(query, "ns")
        return cls(
            kind=kind,
            registry=named.registry,
            repository=named.repository,
            label=f"{registry}/{named.repository}" if registry else named.repository,
            subject=Digest.parse(second) if kind is ListKind.REFERRERS else None,
            path=path,
            query=f"&ns={quote(ns, safe='')}" if ns else "",
            count=_count(parameter(query, "n")),
            last=parameter(query, "last"),
            artifact_type=parameter(query, "artifactType"),
            mirrored=is_mirrored(fields),
        )


_END = re.compile(r"^/v2/.+/(?:tags/list|referrers/[^/]+)$")


def is_list(target: str) -> bool:
    """Return True for the target of a list (the spec's end-8 and end-12)."""
    return _END.search(origin_form(target).partition("?")[0]) is not None


def _count(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise RequestInvalid(f"n is a number of tags, not {text[:32]!r}")
    return int(text)


@dataclass(frozen=True, slots=True)
class TagPage:
    """One page of a repository's tags, and the link to the next page, empty after the last one."""

    tags: list[str]
    link: str = ""


def tag_page(tags: Iterable[str], request: ListRequest) -> TagPage:
    """Return the requested page of a repository's tags, in lexical order."""
    rest = [tag for tag in sorted(tags) if tag > request.last][:MAX_TAGS]
    if request.count is None or request.count >= len(rest):
        return TagPage(rest)
    if request.count == 0:
        return TagPage([])
    page = rest[: request.count]
    target = f"{request.path}?n={request.count}&last={quote(page[-1], safe='')}{request.query}"
    return TagPage(page, f'<{target}>; rel="next"')


def tags_below(names: Iterable[str], request: ListRequest) -> set[str]:
    """Return the tags of the request's repository among full tag names in canonical spelling."""
    prefix = request.prefix
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class ReferrerEntry:
    """The descriptor of a manifest in a list of referrers."""

    digest: Digest
    size: int
    media_type: str
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def as_json(self) -> dict[str, object]:
        """Return the entry as it stands in the list."""
        entry: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.artifact_type:
            entry["artifactType"] = self.artifact_type
        if self.annotations:
            entry["annotations"] = dict(self.annotations)
        return entry


def matching(entries: Iterable[ReferrerEntry], request: ListRequest) -> list[ReferrerEntry]:
    """Return the referrers of the requested type, each once, in the order of their digests."""
    found = {
        each.digest: each
        for each in entries
        if not request.artifact_type or each.artifact_type == request.artifact_type
    }
    return [found[digest] for digest in sorted(found)]


def referrers_body(entries: Collection[ReferrerEntry]) -> bytes:
    """Return the index of referrers.

    Entries that would make it longer than a manifest may be are left out.
    """
    chosen: list[dict[str, object]] = []
    size = 128  # of the index around them
    for each in list(entries)[:MAX_REFERRERS]:
        entry = each.as_json()
        size += len(json.dumps(entry)) + 2
        if size > MAX_MANIFEST:
            break
        chosen.append(entry)
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": chosen}).encode()


def read_tags(data: bytes) -> set[str]:
    """Return the tags of a peer's list. Malformed tags are left out, as is a malformed list."""
    found: set[str] = set()
    for tag in _entries(data, "tags")[:MAX_TAGS]:
        try:
            found.add(check_tag(tag if isinstance(tag, str) else ""))
        except NameInvalid:
            continue
    return found


def read_referrers(data: bytes) -> list[ReferrerEntry]:
    """Return the entries of a peer's list of referrers, without malformed ones."""
    found = (_entry(each) for each in _entries(data, "manifests")[:MAX_REFERRERS])
    return [each for each in found if each is not None]


def _entries(data: bytes, member: str) -> list[object]:
    try:
        document = json.loads(data.decode())
    except (ValueError, RecursionError):
        return []
    entries = document.get(member) if isinstance(document, dict) else None
    return entries if isinstance(entries, list) else []


def _entry(found: object) -> ReferrerEntry | None:
    if not isinstance(found, dict):
        return None
    media_type, size = found.get("mediaType"), found.get("size")
    artifact_type = found.get("artifactType", "")
    if media_type not in MANIFESTS or not isinstance(artifact_type, str):
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_MANIFEST:
        return None
    try:
        digest = Digest.parse(str(found.get("digest")))
    except DigestInvalid:
        return None
    return ReferrerEntry(digest, size, media_type, artifact_type, texts(found.get("annotations")))
