"""What nodes say to the steward of a digest, and what it answers: pure values and their bytes.

A message is a JSON object, no longer than a RequestResponse carries, with its kind in `kind`; members that are not known
are ignored, so that a later version may say more, and a kind that is not known is refused. The version is in the name
of the protocol that carries them. Who speaks is never in it: it is the peer that the connection authenticated.

    ask     digest, offset, serves, held,        "my runtime asks me for it: whom do I take it from?"
            bad?, why?
    note    digest, offset, role, parent?        "this is what I am doing with it" (role: lead, follow, hold, gone)
    look    digest                               "who takes it from whom?", for people to see
    lead    renew                                to an ask: "get it from those that hold it, or upstream"
    follow  parent, depth, renew                 to an ask: "take it from this one"
    wait    seconds                              to an ask: "ask again after so long"
    alone                                        to an ask: "do as if there were no steward"
    noted   renew                                to a note: "say it again within so many seconds"
    shape   places (node, parent?, role?,        to a look: "so, as far as I know"
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

MAX_PLACES = 32
"""Nodes in a shape: two chains as long as they get, and as many as people can tell apart."""

MAX_OFFSET = (1 << 63) - 1
MAX_DEPTH = 64
MAX_HELD = 1000
MAX_SECONDS = 600.0
MAX_ID = 128
"""Characters of a peer id at most; those of Ed25519 keys have 52."""


class MessageError(ValueError):
    """The bytes are no message of this protocol; the text says why."""


class Role(Enum):
    """What a node does with a digest."""

    LEAD = "lead"  # its runtime fetches it upstream
    FOLLOW = "follow"  # its runtime gets it from another node, through this one
    HOLD = "hold"  # it has all of it
    GONE = "gone"  # none of these any more


class Why(Enum):
    """What is wrong with a source."""

    DEAD = "dead"  # no connection, or it broke
    REFUSED = "refused"  # it answered, but not with the content
    SHORT = "short"  # its body ended before its time
    STALL = "stall"  # nothing came within the deadline
    SLOW = "slow"  # less came than the floor
    BUSY = "busy"  # it has no upload slot left
    LOOP = "loop"  # it takes the content from the node that asks, by way of others or not


@dataclass(frozen=True, slots=True)
class Ask:
    """Whom to take the content from, of which the asker's runtime has the first `offset` bytes.

    `serves` says that the asker can give others what it gets, `held` how many nodes it knows that have all of it: it
    asks those rather than go upstream. `bad` is the source it had, and `why` it wants another.
    """

    digest: Digest
    offset: int = 0
    serves: bool = True
    held: int = 0
    bad: str | None = None
    why: Why | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What the sender is doing: `offset` bytes of the content are here, and come from `parent` if it follows."""

    digest: Digest
    role: Role
    offset: int = 0
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Who takes the content from whom; it changes nothing."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Lead:
    """The asker is to get it without the others' help, from those that hold it or else from upstream, and to say every
    `renew` seconds how far it is."""

    renew: float


@dataclass(frozen=True, slots=True)
class Follow:
    """Take it from `parent`; the asker is then `depth` steps away from where it comes from."""

    parent: str
    depth: int
    renew: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Alone:
    """Do as if there were no steward: the runtime fetches upstream, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Say it again within `renew` seconds, or it is forgotten."""

    renew: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is in a shape: below the place with the number `parent`, an earlier one. `role` is None while it has
    no source, or has not said what it does."""

    node: str
    parent: int | None
    role: Role | None
    offset: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Who takes a digest from whom: those that are nearest to where it comes from, and how many `more` there are."""

    places: tuple[Place, ...] = ()
    more: int = 0


Question = Ask | Note | Look
Answer = Lead | Follow | Wait | Alone
Reply = Answer | Noted | Shape
_E = TypeVar("_E", bound=Enum)


def encode(message: Question | Reply) -> bytes:
    """Return the message's bytes."""
    return json.dumps(
        {"kind": type(message).__name__.lower(), **_present(message)}, separators=(",", ":")
    ).encode()


def _present(value: Question | Reply | Place) -> dict[str, object]:
    fields: dict[str, object] = {name: _plain(getattr(value, name)) for name in value.__slots__}
    return {name: plain for name, plain in fields.items() if plain is not None}


def _plain(value: object) -> object:
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, tuple):
        return [_present(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def decode_question(raw: bytes) -> Question:
    """Return the ask, note or look in these bytes. Raises MessageError."""
    fields = _object(raw, MAX_REQUEST)
    match fields.get("kind"):
        case "ask":
            bad, why = _optional_peer(fields, "bad"), _optional_enum(fields, "why", Why)
            if (bad is None) != (why is None):
                raise MessageError("bad and why go together")
            offset, held = (
                _integer(fields, "offset", MAX_OFFSET),
                _integer(fields, "held", MAX_HELD),
            )
            serves = _boolean(fields, "serves")
            return Ask(_digest(fields), offset, serves, held, bad, why)
        case "note":
            role, parent = _enum(fields, "role", Role), _optional_peer(fields, "parent")
            if (role is Role.FOLLOW) != (parent is not None):
                raise MessageError("who follows has a parent, and nobody else")
            return Note(_digest(fields), role, _integer(fields, "offset", MAX_OFFSET), parent)
        case "look":
            return Look(_digest(fields))
    raise MessageError(f"no question of this protocol: kind {fields.get('kind')!r:.40}")


def decode_reply(raw: bytes) -> Reply:
    """Return the answer in these bytes. Raises MessageError."""
    fields = _object(raw, MAX_RESPONSE)
    match fields.get("kind"):
        case "lead":
            return Lead(_seconds(fields, "renew"))
        case "follow":
            depth = _integer(fields, "depth", MAX_DEPTH)
            return Follow(_peer(fields, "parent"), depth, _seconds(fields, "renew"))
        case "wait":
            return Wait(_seconds(fields, "seconds"))
        case "alone":
            return Alone()
        case "noted":
            return Noted(_seconds(fields, "renew"))
        case "shape":
            return Shape(_places(fields), _integer(fields, "more", MAX_OFFSET))
    raise MessageError(f"no answer of this protocol: kind {fields.get('kind')!r:.40}")


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


def _places(fields: dict[str, Any]) -> tuple[Place, ...]:
    values = fields.get("places")
    if (
        not isinstance(values, list)
        or len(values) > MAX_PLACES
        or not all(isinstance(each, dict) for each in values)
    ):
        raise MessageError(f"places are to be up to {MAX_PLACES} objects")
    return tuple(_place(each, number) for number, each in enumerate(values))


def _place(fields: dict[str, Any], number: int) -> Place:
    parent = None if fields.get("parent") is None else _integer(fields, "parent", number - 1)
    role = _optional_enum(fields, "role", Role)
    return Place(_peer(fields, "node"), parent, role, _integer(fields, "offset", MAX_OFFSET))


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
        raise MessageError(f"{name} is to be a whole number from 0 to {most}")
    return value


def _seconds(fields: dict[str, Any], name: str) -> float:
    value = fields.get(name)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 <= value <= MAX_SECONDS
    ):
        raise MessageError(f"{name} is to be a number of seconds up to {MAX_SECONDS:.0f}")
    return float(value)


def _boolean(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool):
        raise MessageError(f"{name} is to be true or false")
    return value


def _peer(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if (
        not isinstance(value, str)
        or not value.isascii()
        or not value.isalnum()
        or len(value) > MAX_ID
    ):
        raise MessageError(f"{name} is to be a peer id")
    return value


def _optional_peer(fields: dict[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else _peer(fields, name)


def _enum(fields: dict[str, Any], name: str, kind: type[_E]) -> _E:
    try:
        return kind(fields.get(name))
    except ValueError as error:
        raise MessageError(
            f"{name} is to be one of {', '.join(each.value for each in kind)}"
        ) from error


def _optional_enum(fields: dict[str, Any], name: str, kind: type[_E]) -> _E | None:
    return None if fields.get(name) is None else _enum(fields, name, kind)
