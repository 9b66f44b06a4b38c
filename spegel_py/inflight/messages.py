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

from spegel_py.inflight.message_fields import MessageError, MessageFields
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE

MAX_TREE_NODES = 32
"""Nodes in a TreeSnapshot: two chains of the greatest depth, and no more than people can read."""

MAX_OFFSET = (1 << 63) - 1
MAX_DEPTH = 64
MAX_HELD = 1000
MAX_SECONDS = 600.0


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
    fields = MessageFields.parse(raw, MAX_REQUEST)
    match fields.kind:
        case "ask":
            bad, why = fields.optional_peer("bad"), fields.optional_enum("why", ParentFault)
            if (bad is None) != (why is None):
                raise MessageError("bad and why go together")
            offset = fields.integer("offset", MAX_OFFSET)
            held = fields.integer("held", MAX_HELD)
            serves = fields.boolean("serves")
            return ParentRequest(fields.digest(), offset, serves, held, bad, why)
        case "note":
            role, parent = fields.enum("role", Role), fields.optional_peer("parent")
            if (role is Role.FOLLOWER) != (parent is not None):
                raise MessageError("a follower has a parent, and no other role has one")
            return Heartbeat(fields.digest(), role, fields.integer("offset", MAX_OFFSET), parent)
        case "look":
            return TreeQuery(fields.digest())
    raise MessageError(f"no request of this protocol: kind {fields.kind!r:.40}")


def decode_response(raw: bytes) -> CoordinatorResponse:
    """Return the response in these bytes. Raises MessageError."""
    fields = MessageFields.parse(raw, MAX_RESPONSE)
    match fields.kind:
        case "lead":
            return FetchUpstream(fields.number("renew", MAX_SECONDS))
        case "follow":
            depth = fields.integer("depth", MAX_DEPTH)
            return FollowParent(fields.peer("parent"), depth, fields.number("renew", MAX_SECONDS))
        case "wait":
            return RetryLater(fields.number("seconds", MAX_SECONDS))
        case "alone":
            return FetchUncoordinated()
        case "noted":
            return HeartbeatAck(fields.number("renew", MAX_SECONDS))
        case "shape":
            places = fields.objects("places", MAX_TREE_NODES)
            nodes = tuple(_tree_node(each, number) for number, each in enumerate(places))
            return TreeSnapshot(nodes, fields.integer("more", MAX_OFFSET))
    raise MessageError(f"no response of this protocol: kind {fields.kind!r:.40}")


def _tree_node(fields: MessageFields, number: int) -> TreeNode:
    parent = fields.integer("parent", number - 1) if fields.has("parent") else None
    role = fields.optional_enum("role", Role)
    return TreeNode(fields.peer("node"), parent, role, fields.integer("offset", MAX_OFFSET))
