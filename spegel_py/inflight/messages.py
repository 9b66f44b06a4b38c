"""The messages between a participant and the coordinator of a digest, and their bytes. Pure.

A message is a JSON object with its kind in `kind`, no longer than RequestResponse carries. Unknown
members are ignored, so that a later version may add some; an unknown kind is refused. The version
is in the name of the protocol that carries the messages. No message names its sender: the sender
is the peer that the connection authenticated. Fields are named as on the wire.

    kind    members                              meaning
    ask     digest, offset, serves, held,        "my runtime wants it: which node is my parent?"
            bad?, why?
    note    digest, offset, role, parent?        heartbeat (role: lead, follow, hold, gone)
    look    digest                               "show me the tree", for people to see
    lead    renew                                to an ask: "get it from its holders, or upstream"
    follow  parent, depth, renew                 to an ask: "get it from this node"
    wait    seconds                              to an ask: "ask again after this time"
    alone                                        to an ask: "go on as without a coordinator"
    noted   renew                                to a note: "send the next one within this time"
    shape   places (node, parent?, role?,        to a look: the tree as the coordinator knows it
            offset), more
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from spegel_py.errors import DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE

MAX_TREE_NODES = 32
"""Nodes in a TreeSnapshot: two chains of the greatest depth, and no more than people can read."""

MAX_OFFSET = (1 << 63) - 1
MAX_DEPTH = 64
MAX_HELD = 1000
MAX_SECONDS = 600.0
MAX_ID = 128
"""Characters of a peer id at most; the ids of Ed25519 keys have 52."""


class MessageError(ValueError):
    """The bytes are no message of this protocol; the text gives the reason."""


class Role(Enum):
    """The part that a node has in a digest's tree."""

    LEADER = "lead"  # its runtime fetches the content upstream
    FOLLOWER = "follow"  # its runtime gets the content from another node, through this one
    COMPLETE = "hold"  # the complete content is here
    LEFT = "gone"  # no part any more


class ParentFault(Enum):
    """The reason why a follower wants another parent."""

    DEAD = "dead"  # no connection, or it broke
    REFUSED = "refused"  # the parent answered, but not with the content
    SHORT = "short"  # the body ended early
    STALL = "stall"  # no byte came within the deadline
    SLOW = "slow"  # fewer bytes came than the slow rate
    BUSY = "busy"  # the parent has no free upload slot
    LOOP = "loop"  # the parent gets the content from the asking node, directly or not


@dataclass(frozen=True, slots=True)
class ParentRequest:
    """A node asks where to get the content from.

    Args:
        digest: the content.
        offset: bytes that the asking node's runtime already has.
        serves: True if the asking node can pass on the bytes that it gets.
        held: nodes that the asking node knows to have the complete content. It asks those nodes
            rather than go upstream.
        bad: id of the parent that failed, with the fault in `why`.
        why: the parent's fault.
    """

    digest: Digest
    offset: int = 0
    serves: bool = True
    held: int = 0
    bad: str | None = None
    why: ParentFault | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The sender's state: its role, the `offset` bytes it has, and a follower's `parent`."""

    digest: Digest
    role: Role
    offset: int = 0
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class TreeQuery:
    """A request for the digest's tree; it changes nothing."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class FetchUpstream:
    """The asking node becomes a leader.

    It gets the content from known holders or else from upstream, and sends a heartbeat every
    `renew` seconds.
    """

    renew: float


@dataclass(frozen=True, slots=True)
class FollowParent:
    """The asking node gets the content from `parent`, and is then `depth` steps below a source."""

    parent: str
    depth: int
    renew: float


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The asking node is to ask again after this time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FetchUncoordinated:
    """The asking node's runtime fetches upstream, and the node sends no heartbeats."""


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The coordinator forgets the sender unless the next heartbeat comes within `renew` seconds."""

    renew: float


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One node of a TreeSnapshot.

    Args:
        node: peer id.
        parent: index of the parent in the snapshot, smaller than the node's own index.
        role: None while the node has no parent, or has not sent its role.
        offset: bytes that the node has.
    """

    node: str
    parent: int | None
    role: Role | None
    offset: int


@dataclass(frozen=True, slots=True)
class TreeSnapshot:
    """The nodes of a digest's tree that are nearest to a source, and how many `more` there are."""

    places: tuple[TreeNode, ...] = ()
    more: int = 0


CoordinatorRequest = ParentRequest | Heartbeat | TreeQuery
Assignment = FetchUpstream | FollowParent | RetryLater | FetchUncoordinated
"""A coordinator's answers to a ParentRequest."""

CoordinatorResponse = Assignment | HeartbeatAck | TreeSnapshot
_E = TypeVar("_E", bound=Enum)

_KINDS: dict[type[CoordinatorRequest | CoordinatorResponse], str] = {
    ParentRequest: "ask",
    Heartbeat: "note",
    TreeQuery: "look",
    FetchUpstream: "lead",
    FollowParent: "follow",
    RetryLater: "wait",
    FetchUncoordinated: "alone",
    HeartbeatAck: "noted",
    TreeSnapshot: "shape",
}


def encode(message: CoordinatorRequest | CoordinatorResponse) -> bytes:
    """Return the message's bytes."""
    return json.dumps(
        {"kind": _KINDS[type(message)], **_present_members(message)}, separators=(",", ":")
    ).encode()


def _present_members(
    value: CoordinatorRequest | CoordinatorResponse | TreeNode,
) -> dict[str, object]:
    members: dict[str, object] = {name: _plain(getattr(value, name)) for name in value.__slots__}
    return {name: plain for name, plain in members.items() if plain is not None}


def _plain(value: object) -> object:
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, tuple):
        return [_present_members(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def decode_request(raw: bytes) -> CoordinatorRequest:
    """Return the request in these bytes. Raises MessageError."""
    fields = _object(raw, MAX_REQUEST)
    match fields.get("kind"):
        case "ask":
            bad, why = _optional_peer(fields, "bad"), _optional_enum(fields, "why", ParentFault)
            if (bad is None) != (why is None):
                raise MessageError("bad and why go together")
            offset = _integer(fields, "offset", MAX_OFFSET)
            held = _integer(fields, "held", MAX_HELD)
            serves = _boolean(fields, "serves")
            return ParentRequest(_digest(fields), offset, serves, held, bad, why)
        case "note":
            role, parent = _enum(fields, "role", Role), _optional_peer(fields, "parent")
            if (role is Role.FOLLOWER) != (parent is not None):
                raise MessageError("a follower has a parent, and no other role has one")
            return Heartbeat(_digest(fields), role, _integer(fields, "offset", MAX_OFFSET), parent)
        case "look":
            return TreeQuery(_digest(fields))
    raise MessageError(f"no request of this protocol: kind {fields.get('kind')!r:.40}")


def decode_response(raw: bytes) -> CoordinatorResponse:
    """Return the response in these bytes. Raises MessageError."""
    fields = _object(raw, MAX_RESPONSE)
    match fields.get("kind"):
        case "lead":
            return FetchUpstream(_seconds(fields, "renew"))
        case "follow":
            depth = _integer(fields, "depth", MAX_DEPTH)
            return FollowParent(_peer(fields, "parent"), depth, _seconds(fields, "renew"))
        case "wait":
            return RetryLater(_seconds(fields, "seconds"))
        case "alone":
            return FetchUncoordinated()
        case "noted":
            return HeartbeatAck(_seconds(fields, "renew"))
        case "shape":
            return TreeSnapshot(_tree_nodes(fields), _integer(fields, "more", MAX_OFFSET))
    raise MessageError(f"no response of this protocol: kind {fields.get('kind')!r:.40}")


def _object(raw: bytes, most: int) -> dict[str, Any]:
    if len(raw) > most:
        raise MessageError(f"a message of {len(raw)} bytes")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}"[:200]) from error
    if not isinstance(fields, dict):
        raise MessageError("not a JSON object")
    return fields


def _tree_nodes(fields: dict[str, Any]) -> tuple[TreeNode, ...]:
    values = fields.get("places")
    if (
        not isinstance(values, list)
        or len(values) > MAX_TREE_NODES
        or not all(isinstance(each, dict) for each in values)
    ):
        raise MessageError(f"places must be up to {MAX_TREE_NODES} objects")
    return tuple(_tree_node(each, number) for number, each in enumerate(values))


def _tree_node(fields: dict[str, Any], number: int) -> TreeNode:
    parent = None if fields.get("parent") is None else _integer(fields, "parent", number - 1)
    role = _optional_enum(fields, "role", Role)
    return TreeNode(_peer(fields, "node"), parent, role, _integer(fields, "offset", MAX_OFFSET))


def _digest(fields: dict[str, Any]) -> Digest:
    text = fields.get("digest")
    if not isinstance(text, str):
        raise MessageError("no digest")
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise MessageError(f"no digest: {error}") from error


def _integer(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise MessageError(f"{name} must be a whole number from 0 to {most}")
    return value


def _seconds(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= MAX_SECONDS
    ):
        raise MessageError(f"{name} must be a number of seconds up to {MAX_SECONDS:.0f}")
    return float(value)


def _boolean(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool):
        raise MessageError(f"{name} must be true or false")
    return value


def _peer(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isalnum()
        or len(value) > MAX_ID
    ):
        raise MessageError(f"{name} must be a peer id")
    return value


def _optional_peer(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _peer(fields, name)


def _enum(fields: dict[str, Any], name: str, kind: type[_E]) -> _E:
    try:
        return kind(fields.get(name))
    except ValueError as error:
        raise MessageError(
            f"{name} must be one of {', '.join(each.value for each in kind)}"
        ) from error


def _optional_enum(fields: dict[str, Any], name: str, kind: type[_E]) -> _E | None:
    return None if fields.get(name) is None else _enum(fields, name, kind)
