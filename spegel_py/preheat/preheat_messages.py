"""The messages between nodes about pre-heating, `/spegel-py/replica/1.0.0`, and their bytes. Pure.

They share the protocol and the form of the messages about replicas (`replicas.keep_messages`). No
message carries a credential: each node uses its own.

    kind     members                               meaning
    preheat  job, image, digest, seen?, platform?, "fetch this image": its name, the digest to take,
             keep, within, rate, credentials?,     the Unix time at which the registry gave it for
             depth?, pin?                          the tag, the seconds to keep it and to fetch it,
                                                   bytes per second, the name of the node's
                                                   credentials, and how far the image is brought;
                                                   an older node brings its content alone
    look     job, digest                           "how far is it?"
    drop     job, digest                           "stop fetching and keeping it"
    resolve  image                                 "which digest has this tag of your list?"
    resolved digest?, seen?                        to it: the digest, and the Unix time at which the
                                                   registry gave it; none if the node does not know
    state    state, done, total, upstream, why,    to each of them; `unknown` for an image that was
             error, name?                          not asked for. `name`: the node's own name
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from spegel_py.errors import ConfigError, OCIError
from spegel_py.inflight.message_fields import MessageError, MessageFields
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.preheat.preheat_request import PreheatDepth
from spegel_py.pull.plan import Platform
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE

KINDS = ("preheat", "look", "drop", "resolve")
"""The kinds of requests."""

UNKNOWN = "unknown"
"""The state of an image that a node was not asked for, or has forgotten."""

MAX_ERROR = 300
"""Characters of a fault's sentence."""

MAX_SIZE = (1 << 63) - 1
MAX_KEEP = 10 * 365 * 86_400.0
MAX_WITHIN = 86_400.0
MAX_RATE = 10**12
MAX_TIME = 1e11
_MAX_IMAGE, _MAX_NAME, _MAX_JOB, _MAX_PLATFORM = 480, 100, 40, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class PreheatAsk:
    """A node asks another one to fetch an image.

    Args:
        seen: the Unix time at which the registry gave the digest for the tag, if it did.
        keep: seconds for which the image is kept.
        within: seconds after which the node gives up.
    """

    job: str
    image: Reference
    digest: Digest
    seen: float | None
    platform: Platform | None
    keep: float
    within: float
    rate: int = 0
    credentials: str = ""
    depth: PreheatDepth = PreheatDepth.CONTENT
    pin: bool = False


@dataclass(frozen=True, slots=True)
class PreheatLook:
    """A node asks how far an image is, or with `is_drop` that it is dropped."""

    job: str
    digest: Digest
    is_drop: bool = False


@dataclass(frozen=True, slots=True)
class PreheatResolve:
    """A node asks for the digest of a tag that the other node's list has too."""

    image: Reference


@dataclass(frozen=True, slots=True)
class ListedTag:
    """The digest of a listed tag, and the Unix time at which the registry gave it."""

    digest: Digest
    seen: float


@dataclass(frozen=True, slots=True)
class PreheatAnswer:
    """The state of an image on the asked node; None if it is unknown there.

    `name` is the node's name, empty if it does not tell.
    """

    progress: NodeProgress | None
    name: str = ""

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return the answer in these bytes. Raises MessageError."""
        fields = MessageFields.parse(raw, MAX_RESPONSE)
        if fields.kind != "state":
            raise MessageError(f"no answer of this protocol: kind {fields.kind!r:.40}")
        name = _optional(fields, "name", _MAX_NAME)
        if fields.members.get("state") == UNKNOWN:
            return cls(None, name)
        return cls(
            NodeProgress(
                stage=fields.enum("state", PreheatStage),
                done=fields.integer("done", MAX_SIZE),
                total=fields.integer("total", MAX_SIZE),
                upstream=fields.integer("upstream", MAX_SIZE),
                why=_optional(fields, "why", _MAX_NAME),
                error=_optional(fields, "error", MAX_ERROR),
            ),
            name,
        )


def encode_tag(tag: ListedTag | None) -> bytes:
    """Return the bytes of an answer to `resolve`."""
    given = {} if tag is None else {"digest": str(tag.digest), "seen": tag.seen}
    return _bytes({"kind": "resolved", **given})


def decode_tag(raw: bytes) -> ListedTag | None:
    """Return the tag in an answer to `resolve`. Raises MessageError."""
    fields = MessageFields.parse(raw, MAX_RESPONSE)
    if fields.kind != "resolved":
        raise MessageError(f"no answer of this protocol: kind {fields.kind!r:.40}")
    if not fields.has("digest"):
        return None
    return ListedTag(fields.digest(), fields.number("seen", MAX_TIME))


def encode_ask(message: PreheatAsk | PreheatLook | PreheatResolve) -> bytes:
    """Return a request's bytes. Raises MessageError for an image whose name is too long."""
    if isinstance(message, PreheatResolve):
        return _bytes({"kind": "resolve", "image": str(message.image)})
    if isinstance(message, PreheatLook):
        kind = "drop" if message.is_drop else "look"
        return _bytes({"kind": kind, "job": message.job, "digest": str(message.digest)})
    raw = _bytes(
        {
            "kind": "preheat",
            "job": message.job,
            "image": str(message.image),
            "digest": str(message.digest),
            "seen": message.seen,
            "platform": str(message.platform) if message.platform else None,
            "keep": message.keep,
            "within": message.within,
            "rate": message.rate,
            "credentials": message.credentials or None,
            "depth": message.depth.value,
            "pin": message.pin,
        }
    )
    if len(raw) > MAX_REQUEST:
        raise MessageError(f"the request has {len(raw)} bytes, more than {MAX_REQUEST}")
    return raw


def encode_state(progress: NodeProgress | None, *, name: str = "") -> bytes:
    """Return an answer's bytes, with the name of this node."""
    told = {"name": name} if name.isprintable() and 0 < len(name) <= _MAX_NAME else {}
    if progress is None:
        return _bytes({"kind": "state", "state": UNKNOWN, **told})
    error = "".join(each if each.isprintable() else "?" for each in progress.error)[:MAX_ERROR]
    return _bytes({"kind": "state", **progress.as_json(), "error": error, **told})


def is_preheat(raw: bytes) -> bool:
    """Return True if the bytes are a request about pre-heating. Raises MessageError."""
    return MessageFields.parse(raw, MAX_REQUEST).kind in KINDS


def decode_ask(raw: bytes) -> PreheatAsk | PreheatLook | PreheatResolve:
    """Return the request in these bytes. Raises MessageError."""
    fields = MessageFields.parse(raw, MAX_REQUEST)
    if fields.kind == "resolve":
        return PreheatResolve(_image(fields.text("image", _MAX_IMAGE)))
    job, digest = fields.text("job", _MAX_JOB), fields.digest()
    match fields.kind:
        case "look" | "drop":
            return PreheatLook(job, digest, is_drop=fields.kind == "drop")
        case "preheat":
            return PreheatAsk(
                job=job,
                image=_image(fields.text("image", _MAX_IMAGE)),
                digest=digest,
                seen=fields.number("seen", MAX_TIME) if fields.has("seen") else None,
                platform=_platform(_optional(fields, "platform", _MAX_PLATFORM)),
                keep=fields.number("keep", MAX_KEEP),
                within=fields.number("within", MAX_WITHIN),
                rate=fields.integer("rate", MAX_RATE),
                credentials=_optional(fields, "credentials", _MAX_NAME),
                depth=fields.optional_enum("depth", PreheatDepth) or PreheatDepth.CONTENT,
                pin=fields.has("pin") and fields.boolean("pin"),
            )
    raise MessageError(f"no request of this protocol: kind {fields.kind!r:.40}")


def _optional(fields: MessageFields, name: str, most: int) -> str:
    return fields.text(name, most) if fields.members.get(name) not in (None, "") else ""


def _image(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except OCIError as error:
        raise MessageError(f"no image: {error}"[:200]) from error


def _platform(text: str) -> Platform | None:
    try:
        return Platform.parse(text) if text else None
    except ConfigError as error:
        raise MessageError(f"no platform: {error}"[:200]) from error


def _bytes(members: Mapping[str, object]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()
