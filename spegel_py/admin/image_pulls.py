"""Pulls of whole images, put together from the records of their requests. Pure.

A runtime pulls an image in many requests: it resolves the tag, then gets the index, the manifest,
the config and each layer. The content of manifests says which requests belong together. Where a
manifest is not here, the repository and the time of the requests decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spegel_py.oci.manifest import INDEXES, MANIFESTS, Child
from spegel_py.outcomes import ContentSource, MissReason
from spegel_py.telemetry.pull_record import RecordQuery

GAP = 900.0
"""Seconds without a request after which a pull is over. A registry may need minutes for one layer,
and the runtime asks for a few layers at a time."""

Record = Mapping[str, Any]
"""A pull record, as PullRecord.as_json returns it."""


@dataclass(frozen=True, slots=True)
class ImageContent:
    """The content of manifests that are here.

    `children` are a manifest's children by its digest. `held` contains the digests of all content
    that is here.
    """

    children: Mapping[str, Sequence[Child]] = field(default_factory=dict)
    held: Collection[str] = ()

    def below(self, digest: str) -> Mapping[str, Child]:
        """Return all content that a manifest names, in any depth, by its digest."""
        found: dict[str, Child] = {}
        waiting = [digest]
        while waiting:
            for child in self.children.get(waiting.pop(), ()):
                if str(child.digest) not in found:
                    found[str(child.digest)] = child
                    waiting.append(str(child.digest))
        return found


@dataclass(slots=True)
class PulledPart:
    """One manifest or blob that was requested: `bytes` of it came through the mirror.

    `size` is None if it is not known. `peers` are the bytes by the address of the peer that sent
    them, and `in_flight` has the addresses of peers that were still downloading the part.
    """

    digest: str
    kind: str
    size: int | None = None
    began: float = 0.0
    ended: float = 0.0
    local: int = 0
    peers: Counter[str] = field(default_factory=Counter)
    in_flight: set[str] = field(default_factory=set)
    has_whole: bool = False
    reason: str | None = None
    text: str = ""
    requests: int = 0

    @property
    def bytes(self) -> int:
        return self.local + self.peers.total()

    @property
    def is_answered(self) -> bool:
        """Return True if the mirror sent all bytes, in one answer or in several ranges.

        Of a part whose size is not known, the last answer decides.
        """
        if self.size is None:
            return self.reason is None and self.bytes > 0
        return self.has_whole or 0 < self.size <= self.bytes

    @property
    def from_registry(self) -> int | None:
        """Bytes that the runtime had to get from the registry; None if that is not known."""
        if self.is_answered:
            return 0
        return None if self.size is None else max(0, self.size - self.bytes)

    def add(self, record: Record) -> None:
        """Count one request for this part."""
        is_hit = record["verdict"] == "hit"
        self.requests += 1
        self.began = min(self.began, record["at"]) if self.requests > 1 else record["at"]
        self.ended = max(self.ended, _end(record))
        self.local += record["bytes"]["local"]
        if record["bytes"]["peer"]:
            self._count_peers(record)
        if is_hit and record["range"] is None and record["method"] == "GET":
            self.has_whole = True
            self.size = record["length"]
        self.reason, self.text = record["reason"], record["text"]

    def _count_peers(self, record: Record) -> None:
        attempts = [each for each in record["attempts"] if each["bytes"]]
        for each in attempts:
            self.peers[each["addr"]] += each["bytes"]
            if each.get("in_flight"):
                self.in_flight.add(each["addr"])
        if not attempts:
            self.peers["a peer"] += record["bytes"]["peer"]

    def as_json(self) -> dict[str, object]:
        return {
            "digest": self.digest,
            "kind": self.kind,
            "size": self.size,
            "answered": self.is_answered,
            "local": self.local,
            "peers": dict(self.peers),
            "in_flight": sorted(self.in_flight),
            "reason": None if self.is_answered else self.reason,
            "text": self.text,
            "requests": self.requests,
            "seconds": round(self.ended - self.began, 4),
        }


class ImagePull:
    """One pull of one image by one client, as far as it went through the mirror.

    `node` is another node whose runtime asked this one. `image` is the tag's full name, or
    `repository@digest`. `root` is the digest of the image, None as long as no request named it.
    `total` is the number of parts that the image has here; None if its manifests are not here.
    """

    def __init__(self, first: Record) -> None:
        self.repository = _repository(first)
        self.client: str = first["client"]
        self.node: str | None = first["node"]
        self.image: str = first["reference"]
        self.root: str | None = None
        self.at: float = first["at"]
        self.end: float = self.at
        self.total: int | None = None
        self.records: list[Record] = []
        self.parts: dict[str, PulledPart] = {}
        self._names: dict[str, Child] = {}
        self._is_known = False

    def __repr__(self) -> str:
        return f"<ImagePull {self.image} of {len(self.parts)} parts>"

    @property
    def is_resolving(self) -> bool:
        """Return True as long as the client has only looked for the image."""
        return all(_is_opening(record) for record in self.records)

    @property
    def answered(self) -> int:
        """The number of parts that came through the mirror whole."""
        return sum(part.is_answered for part in self.parts.values())

    def owns(self, record: Record) -> bool:
        """Return True if the request of a digest belongs to this pull."""
        digest = record["digest"]
        if digest == self.root or digest in self._names:
            return digest != self.root or not self._has_begun_again(record)
        return not self._is_known

    def add(self, record: Record, content: ImageContent) -> None:
        """Add a request, and learn from the content of a manifest."""
        self.records.append(record)
        self.end = max(self.end, _end(record))
        digest = record["digest"]
        if digest is None:
            return
        if self.root is None and record["kind"] == "manifest":
            self.root = digest
            self._is_known = digest in content.children
        if record["kind"] == "manifest":
            self._names |= content.below(digest)
        if record["method"] == "GET":
            self._part(record).add(record)

    def count(self, content: ImageContent) -> None:
        """Count the parts of the image; of an index, only the platforms that are here."""
        if self.root is None or not self._is_known:
            return
        reached, waiting = {self.root}, [self.root]
        while waiting:
            for child in content.children.get(waiting.pop(), ()):
                digest = str(child.digest)
                is_manifest = child.media_type in MANIFESTS
                is_here = digest in content.held or digest in self.parts
                if digest not in reached and (is_here or not is_manifest):
                    reached.add(digest)
                    waiting.append(digest)
        self.total = len(reached | set(self.parts))
        for digest, part in self.parts.items():
            if part.size is None and digest in self._names:
                part.size = self._names[digest].size

    def matches(self, query: RecordQuery) -> bool:
        """Return True if the image, or a part of it, is searched for."""
        return any(
            query.matches(key=record["key"], digest=digest, reference=record["reference"])
            for record in self.records
            for digest in {record["digest"], self.root}
        )

    def as_json(self) -> dict[str, object]:
        """Return the pull as `/debug/pulls` shows it."""
        return {
            "image": self.image,
            "digest": self.root,
            "client": self.client,
            "node": self.node,
            "at": round(self.at, 3),
            "seconds": round(self.end - self.at, 3),
            "bytes": sum(part.bytes for part in self.parts.values()),
            "asked": len(self.parts),
            "answered": self.answered,
            "total": self.total,
            "requests": len(self.records),
            "refused": self._refusal(),
            "sources": self._sources(),
            "parts": [self.parts[digest].as_json() for digest in self._in_order()],
        }

    def _refusal(self) -> str | None:
        """Return why the image was refused, None if its last request was not."""
        last = self.records[-1]
        return str(last["text"]) if last["reason"] == MissReason.PRIVATE else None

    def _in_order(self) -> list[str]:
        """Return the digests of the parts: the image's own first, then those below, as it names
        them."""
        order = {digest: number for number, digest in enumerate((self.root, *self._names))}
        return sorted(self.parts, key=lambda digest: order.get(digest, len(order)))

    def _sources(self) -> list[dict[str, object]]:
        local = sum(part.local for part in self.parts.values())
        peers: Counter[str] = Counter()
        in_flight: set[str] = set()
        for part in self.parts.values():
            peers += part.peers
            in_flight |= part.in_flight
        found: list[dict[str, object]] = [
            {
                "source": ContentSource.PEER.value,
                "address": address,
                "bytes": count,
                "in_flight": address in in_flight,
            }
            for address, count in peers.most_common()
        ]
        if local:
            found.append(_source(ContentSource.LOCAL.value, local))
        missed = [part.from_registry for part in self.parts.values() if not part.is_answered]
        if missed:
            # No manifest names the size of the image's own manifest, which is small.
            known = [count for count in missed if count is not None]
            found.append(_source("registry", sum(known) if known else None))
        return found

    def _part(self, record: Record) -> PulledPart:
        digest = record["digest"]
        if digest not in self.parts:
            child = self._names.get(digest)
            size = child.size if child else None
            self.parts[digest] = PulledPart(digest, self._kind(record, child), size)
        return self.parts[digest]

    def _kind(self, record: Record, child: Child | None) -> str:
        media_type = child.media_type if child else ""
        if record["kind"] == "manifest":
            has_manifests = any(each.media_type in MANIFESTS for each in self._names.values())
            is_index = media_type in INDEXES or (record["digest"] == self.root and has_manifests)
            return "index" if is_index else "manifest"
        if ".config." in media_type or ".container.image." in media_type:
            return "config"
        return "layer" if media_type else "blob"

    def _has_begun_again(self, record: Record) -> bool:
        """Return True if a request for the root begins another pull."""
        part = self.parts.get(self.root or "")
        if _is_opening(record):
            return not self.is_resolving
        return part is not None and part.has_whole and len(self.parts) > 1


def group(records: Iterable[Record], content: ImageContent) -> list[ImagePull]:
    """Return the pulls that records belong to, the oldest first."""
    pulls: list[ImagePull] = []
    for record in sorted(records, key=lambda each: float(each["at"])):
        pull = _owner(pulls, record)
        if pull is None:
            pull = ImagePull(record)
            pulls.append(pull)
        pull.add(record, content)
    for pull in pulls:
        pull.count(content)
    return pulls


def _owner(pulls: Sequence[ImagePull], record: Record) -> ImagePull | None:
    """Return the pull that a request belongs to; None if it begins a new one."""
    repository = _repository(record)
    near = [
        pull
        for pull in reversed(pulls)
        if (pull.client, pull.node) == (record["client"], record["node"])
        and pull.repository == repository
        and record["at"] - pull.end < GAP
    ]
    if record["key"] == record["reference"]:  # a tag
        return next(
            (each for each in near if each.image == record["reference"] and each.is_resolving), None
        )
    return next((pull for pull in near if pull.owns(record)), None)


def _is_opening(record: Record) -> bool:
    """Return True for a request with which a client begins: of a tag, or of a manifest's head."""
    is_head = record["method"] == "HEAD" and record["kind"] == "manifest"
    return is_head or bool(record["key"] == record["reference"])


def _repository(record: Record) -> str:
    reference: str = record["reference"]
    if record["key"] == reference:
        return reference.rpartition(":")[0]
    return reference.partition("@")[0]


def _end(record: Record) -> float:
    return float(record["at"] + record["ms"] / 1000)


def _source(name: str, count: int | None) -> dict[str, object]:
    return {"source": name, "address": None, "bytes": count, "in_flight": False}
