"""The messages of `/spegel-py/member/1.0.0`, in which members ask each other about a third. Pure.

Each is the body of a message of `request_response`, which has its length:

    PROBE    kind (u8: 1) and a peer id: "ping this peer; does it answer you?"
    SUSPECT  kind (u8: 2) and a peer id: the same, and "I and my helpers do not hear it"
    REFUSED  kind (u8: 3) and a peer id: "its registry does not answer my checks"
    ANSWER   u8: 1 it answers me, 2 it does not, 3 I am not connected to it, or do not say

A peer id has at most MAX_ID bytes. The sender is the peer that the Noise handshake authenticated.
A kind that a node does not know is answered with 3, so that kinds can be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PROTOCOL = "/spegel-py/member/1.0.0"
MAX_ID = 64
"""Bytes of a peer id at most; an Ed25519 id has 38."""
MIN_ID = 2
"""Bytes of a peer id at least: a multihash begins with its kind and its length."""


class MemberKind(IntEnum):
    """The kinds of messages about a member."""

    PROBE = 1
    SUSPECT = 2
    REFUSED = 3


class MemberAnswer(IntEnum):
    """How a member answers for another one."""

    HEARS = 1
    DEAF = 2
    UNKNOWN = 3


_KINDS = frozenset(map(int, MemberKind))
_ANSWERS = frozenset(map(int, MemberAnswer))


@dataclass(frozen=True, slots=True)
class MemberMessage:
    """A message about the peer with this id (bytes). `kind` is None if this node does not know
    it."""

    kind: MemberKind | None
    peer: bytes


def encode(kind: MemberKind, peer: bytes) -> bytes:
    """Return the bytes of a message."""
    return bytes([kind]) + peer


def decode(message: bytes) -> MemberMessage:
    """Return the message. Raises ValueError."""
    if not 1 + MIN_ID <= len(message) <= 1 + MAX_ID:
        raise ValueError(f"a message of {len(message)} bytes about a member")
    kind = MemberKind(message[0]) if message[0] in _KINDS else None
    return MemberMessage(kind, message[1:])


def encode_answer(answer: MemberAnswer) -> bytes:
    """Return the bytes of an answer."""
    return bytes([answer])


def decode_answer(message: bytes) -> MemberAnswer:
    """Return the answer; one that this node does not know counts as UNKNOWN."""
    known = len(message) == 1 and message[0] in _ANSWERS
    return MemberAnswer(message[0]) if known else MemberAnswer.UNKNOWN
