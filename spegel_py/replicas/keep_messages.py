"""The messages between nodes about replicas, `/spegel-py/replica/1.0.0`, and their bytes. Pure.

A message is a JSON object with its kind in `kind`, no longer than RequestResponse carries. Unknown
members are ignored; an unknown kind is refused. No message names its sender: the sender is the peer
that the connection authenticated. A request for a replica carries no address and no credentials:
the keeper looks up the peers with the image, and takes it from them.

    kind    members                                meaning
    keep    manifest, root, repository, tags       "keep this image": its size in bytes, the tags
            (name, pulled), size, reason, used,    with the Unix times of their pulls, the Unix time
            heat?                                  at which a runtime last had it, and its heat
    used    manifest                               "when did your runtime last have the image?"
    sick    why                                    "I expect your node to fail"
    kept                                           to a keep: "I keep it"
    taking  offset, total                          to a keep: "I take it; so many bytes are here"
    no      why, retry, detail?                    to a keep: "I do not; ask again after `retry`
                                                   seconds"
    seen    used, heat?                            to a used: Unix time, 0 for never
    noted                                          to a sick
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from spegel_py.errors import OCIError
from spegel_py.inflight.message_fields import MessageError, MessageFields
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference, check_tag
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE
from spegel_py.store.base import ReplicaReason

MAX_TAGS = 4
"""Tags in a request: those that were pulled last."""

MAX_REPOSITORY = 300
"""Characters of `registry/repository`. An image with a longer name is not asked for."""

MAX_SIZE = (1 << 63) - 1
MAX_TIME = 1e11
"""Unix time in seconds that a message may name at most: the year 5138."""
MAX_HEAT = 1e6
"""Heat of an image that a message may name."""
MAX_RETRY = 86_400.0
"""Seconds after which a keeper may want to be asked again at most."""


class RefusalReason(StrEnum):
    """The reason why a node does not keep an image."""

    OFF = "off"
    DISK = "disk"
    FILTERED = "filtered"
    TOO_LARGE = "too-large"
    FULL = "full"
    DRAINING = "draining"
    FAILED = "failed"
    SILENT = "silent"
    """The node did not answer; no message has this reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRequest:
    """A node asks another one to keep an image.

    Args:
        manifest: the digest of the platform's manifest.
        root: the digest by which the image is pulled: of an index, or of the manifest itself.
        repository: `registry/repository`.
        tags: the tags of that repository, with the Unix times of their pulls.
        size: bytes of the image, as the asking node says.
        reason: the purpose of the replica.
        used: the Unix time at which a runtime last had the image.
        heat: the pulls of the image in the cluster, of which the older ones count less.
    """

    manifest: Digest
    root: Digest
    repository: str
    tags: Mapping[str, float] = field(default_factory=dict)
    size: int
    reason: ReplicaReason
    used: float
    heat: float = 0.0

    @property
    def reference(self) -> Reference:
        """The name by which the image is fetched."""
        return Reference.parse(f"{self.repository}@{self.root}")

    @property
    def names(self) -> dict[str, float]:
        """The full names of the tags, with the Unix times of their pulls."""
        return {f"{self.repository}:{tag}": pulled for tag, pulled in self.tags.items()}


@dataclass(frozen=True, slots=True)
class UsedRequest:
    """A keeper asks whether another node's runtime has the image, or had it lately."""

    manifest: Digest


@dataclass(frozen=True, slots=True)
class SickNotice:
    """A node tells another one that it expects it to fail, and by what sign."""

    why: str


@dataclass(frozen=True, slots=True)
class SickNoted:
    """The notice has arrived."""


@dataclass(frozen=True, slots=True)
class ImageKept:
    """The asked node keeps the image."""


@dataclass(frozen=True, slots=True)
class ImageTaking:
    """The asked node takes the image. `total` is 0 until it knows the size."""

    offset: int
    total: int


@dataclass(frozen=True, slots=True)
class KeepRefused:
    """The asked node does not keep the image, and may be asked again after `retry` seconds.

    `detail` says more to people.
    """

    why: RefusalReason
    retry: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ImageUsed:
    """The Unix time at which the asked node's runtime last had the image, 0 if it never had it.

    `heat` is the heat of the image as that node sees it.
    """

    used: float
    heat: float = 0.0


KeepMessage = KeepRequest | UsedRequest | SickNotice
KeepAnswer = ImageKept | ImageTaking | KeepRefused | ImageUsed | SickNoted


def encode(message: KeepMessage | KeepAnswer) -> bytes:
    """Return the message's bytes. Tags that do not fit are left out, the oldest first."""
    members: dict[str, object]
    match message:
        case KeepRequest():
            return _encode_keep(message)
        case UsedRequest(manifest):
            members = {"kind": "used", "manifest": str(manifest)}
        case SickNotice(why):
            members = {"kind": "sick", "why": why[:MAX_DETAIL]}
        case ImageKept():
            members = {"kind": "kept"}
        case ImageTaking(offset, total):
            members = {"kind": "taking", "offset": offset, "total": total}
        case KeepRefused(why, retry, detail):
            members = {"kind": "no", "why": why.value, "retry": retry}
            members |= {"detail": detail[:MAX_DETAIL]} if detail else {}
        case ImageUsed(used, heat):
            members = {"kind": "seen", "used": used} | _heat_member(heat)
        case SickNoted():
            members = {"kind": "noted"}
    return _bytes(members)


MAX_DETAIL = 160
"""Characters of a refusal's detail, and of the reason in a notice."""


def _encode_keep(message: KeepRequest) -> bytes:
    latest = sorted(message.tags.items(), key=lambda one: (-one[1], one[0]))[:MAX_TAGS]
    while True:
        members = {
            "kind": "keep",
            "manifest": str(message.manifest),
            "root": str(message.root),
            "repository": message.repository,
            "tags": [{"name": tag, "pulled": pulled} for tag, pulled in latest],
            "size": message.size,
            "reason": message.reason.value,
            "used": message.used,
            **_heat_member(message.heat),
        }
        raw = _bytes(members)
        if len(raw) <= MAX_REQUEST or not latest:
            return raw
        latest.pop()


def _heat_member(heat: float) -> dict[str, object]:
    return {"heat": heat} if heat else {}


def _heat(fields: MessageFields) -> float:
    return fields.number("heat", MAX_HEAT) if fields.has("heat") else 0.0


def _bytes(members: Mapping[str, object]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def decode_keep(raw: bytes) -> KeepMessage:
    """Return the request in these bytes. Raises MessageError."""
    fields = MessageFields.parse(raw, MAX_REQUEST)
    match fields.kind:
        case "keep":
            return KeepRequest(
                manifest=fields.digest("manifest"),
                root=fields.digest("root"),
                repository=_repository(fields.text("repository", MAX_REPOSITORY)),
                tags=dict(_tag(each) for each in fields.objects("tags", MAX_TAGS)),
                size=fields.integer("size", MAX_SIZE),
                reason=fields.enum("reason", ReplicaReason),
                used=fields.number("used", MAX_TIME),
                heat=_heat(fields),
            )
        case "used":
            return UsedRequest(fields.digest("manifest"))
        case "sick":
            return SickNotice(fields.text("why", MAX_DETAIL))
    raise MessageError(f"no request of this protocol: kind {fields.kind!r:.40}")


def decode_answer(raw: bytes) -> KeepAnswer:
    """Return the answer in these bytes. Raises MessageError."""
    fields = MessageFields.parse(raw, MAX_RESPONSE)
    match fields.kind:
        case "kept":
            return ImageKept()
        case "taking":
            return ImageTaking(
                fields.integer("offset", MAX_SIZE), fields.integer("total", MAX_SIZE)
            )
        case "no":
            detail = fields.text("detail", MAX_DETAIL) if fields.has("detail") else ""
            retry = fields.number("retry", MAX_RETRY)
            return KeepRefused(fields.enum("why", RefusalReason), retry, detail)
        case "seen":
            return ImageUsed(fields.number("used", MAX_TIME), _heat(fields))
        case "noted":
            return SickNoted()
    raise MessageError(f"no answer of this protocol: kind {fields.kind!r:.40}")


def _repository(text: str) -> str:
    try:
        found = Reference.parse(f"{text}:tag")
    except OCIError as error:
        raise MessageError(f"no repository: {error}"[:200]) from error
    if found.digest is not None or found.tag != "tag":
        raise MessageError("no repository")
    return text


def _tag(fields: MessageFields) -> tuple[str, float]:
    try:
        return check_tag(fields.text("name", MAX_REPOSITORY)), fields.number("pulled", MAX_TIME)
    except OCIError as error:
        raise MessageError(f"no tag: {error}"[:200]) from error
