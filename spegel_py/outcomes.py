"""How pulls, and the requests that they make to peers, can end: the values that all rooms share.

The values of the enums are wire format: they stand in records, log lines, metric labels and JSON
answers. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ContentSource(StrEnum):
    """Where the bytes of an answer came from."""

    LOCAL = "local"
    """This node's own store."""
    PEER = "peer"
    NONE = "none"
    """Nowhere: the runtime has to fetch the content from the registry."""


class LocalState(StrEnum):
    """The state of a pull's content in this node's own store."""

    UNASKED = "unasked"
    """The store was not asked."""
    HELD = "held"
    ABSENT = "absent"
    GROWING = "growing"
    """This node's runtime is still downloading the content."""
    TOO_OLD = "too_old"
    """The tag is here, but older than `--tag-ttl`."""
    UNBELIEVED = "unbelieved"
    """The tag here came from a peer, and the word of its author does not count any more."""
    AWAY = "away"
    """The store did not answer."""


class MissReason(StrEnum):
    """Why a pull was not a hit."""

    NOT_FOUND = "not_found"
    """Neither this node nor any peer has the content."""
    LOOKUP_TIMEOUT = "lookup_timeout"
    """No peer was found in time."""
    LOOKUP_FAILED = "lookup_failed"
    SHUNNED = "shunned"
    """Peers have the content, but recently sent wrong bytes or broke off, and are not asked."""
    FAILED = "failed"
    """Every peer that was asked failed."""
    CUT = "cut"
    """The body ended short."""
    CLIENT_GONE = "client_gone"
    """The client left before the last byte."""
    INVALID = "invalid"
    """The requested range lies outside the content."""
    FILTERED = "filtered"
    """A filter, `--tag-ttl 0` or `--tag-policy upstream-first` sends the pull to the registry."""
    CHALLENGED = "challenged"
    """The image is private, and the client brought no credentials: it gets the registry's challenge
    and comes again."""
    PRIVATE = "private"
    """The registry does not give the private image to the client's credentials, or does not answer.
    """
    TOO_OLD = "too_old"
    """The tag here is too old, and no peer has a newer one."""
    UNBELIEVED = "unbelieved"
    """Nobody whose word counts has seen the tag at its registry."""
    STORE_AWAY = "store_away"
    """This node's store is away, and no peer has the content."""
    ERROR = "error"
    """A fault of this node."""


class AttemptOutcome(StrEnum):
    """How a request to a peer ended."""

    OK = "ok"
    NOT_FOUND = "not_found"
    """404: the record of the peer was stale, which is no fault of the peer."""
    TOO_OLD = "too_old"
    """The tag of the peer is older than a tag may be, which is no fault of the peer."""
    UNBELIEVED = "unbelieved"
    """The word that came with the peer's tag is not believed; the peer may only pass it on."""
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    STALLED = "stalled"
    MISMATCH = "mismatch"
    """The peer sent wrong bytes."""
    BUSY = "busy"
    """503: all upload slots of the peer are in use, which is no fault."""
    SLOW = "slow"
    """The pull went on at another peer from where this one was left; no fault."""
    UNPROVEN = "unproven"
    """The answer had no right proof, so that it may be somebody else's."""
    LOOPS = "loops"
    """The peer itself takes the content from this node; no fault."""
    ABANDONED = "abandoned"
    """Another peer was quicker, the client left, or time was up; no fault."""

    @property
    def is_failure(self) -> bool:
        """Return True if the outcome counts against the peer."""
        return self in (
            AttemptOutcome.REFUSED,
            AttemptOutcome.UNREACHABLE,
            AttemptOutcome.STALLED,
            AttemptOutcome.MISMATCH,
            AttemptOutcome.UNPROVEN,
        )

    @property
    def is_network_error(self) -> bool:
        """Return True if the peer sent no answer of its own, or only a part of one."""
        return self in (
            AttemptOutcome.UNREACHABLE,
            AttemptOutcome.STALLED,
            AttemptOutcome.UNPROVEN,
        )


class PeerZone(StrEnum):
    """The zone of a peer, as this node sees it."""

    SAME = "same"
    """This node's own zone."""
    OTHER = "other"
    UNKNOWN = "unknown"
    """The peer or this node names no zone."""

    @classmethod
    def of(cls, zone: str, *, own: str) -> PeerZone:
        """Return what a peer's zone is beside this node's own; both are empty if not named."""
        if not own or not zone:
            return cls.UNKNOWN
        return cls.SAME if zone == own else cls.OTHER


class RelayOutcome(StrEnum):
    """How the relay of one body ended, as `relay finished` and `relay missed` log it."""

    COMPLETE = "complete"
    CUT = "cut"
    MISSED = "missed"
    """No peer gave the content in time."""
    RANGE = "range"
    """The requested range lies outside the content."""
    CLIENT_GONE = "client_gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """The result of looking for peers: how many were `found`, the first after `first` seconds.

    A lookup that was no longer needed, or took too long, has not `ended`. `error` is the text of
    the error that ended it.
    """

    found: int = 0
    first: float | None = None
    ended: bool = True
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One request to a peer: `bytes` of its body were passed on, from byte `offset` of the content.

    A `hedge` was sent because another peer was slow. A peer `in_flight` was still downloading the
    content itself. `outcome` is None while the request lasts.
    """

    peer: str
    address: str
    offset: int = 0
    bytes: int = 0
    milliseconds: float
    outcome: AttemptOutcome | None
    hedge: bool = False
    in_flight: bool = False

    def as_json(self) -> dict[str, str | int | float | bool | None]:
        """Return the record as it is logged and shown."""
        return {
            "peer": self.peer,
            "addr": self.address,
            "offset": self.offset,
            "bytes": self.bytes,
            "ms": self.milliseconds,
            "outcome": self.outcome.value if self.outcome else None,
            "hedge": self.hedge,
            "in_flight": self.in_flight,
        }
