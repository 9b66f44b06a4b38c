"""The one place that says why a request was a hit or a miss: metric, log line and record all go by it. Pure."""

from __future__ import annotations

from spegel_py.errors import OCIError, RangeInvalid
from spegel_py.telemetry.decisions import Decision, Inquiry, Lookup, Miss, Source, reference_of

NAMED = 3
"""Peers that the text names; the record has all."""

_OUTCOMES = {
    "not_found": "does not have it any more",
    "refused": "refused",
    "busy": "is busy",
    "unreachable": "cannot be reached",
    "stalled": "stalled",
    "mismatch": "sent wrong bytes",
    "slow": "was too slow",
    "loops": "takes it from here itself",
    "abandoned": "did not answer in time",
}
"""What is said of a peer that was asked in vain, by the value of its mirror.scores.Result."""

Verdict = tuple[Miss | None, str]


def decide(inquiry: Inquiry, *, seconds: float) -> Decision:
    """Return the record of a request that is over, after so many seconds."""
    pull = inquiry.pull
    reason, text = _judge(inquiry)
    return Decision(
        at=inquiry.at,
        method="HEAD" if pull.head else "GET",
        kind=pull.kind.name.lower(),
        key=pull.key,
        reference=reference_of(pull),
        registry=pull.registry,
        range=pull.asked_range,
        digest=str(inquiry.digest or pull.digest) if inquiry.digest or pull.digest else None,
        local=inquiry.local,
        lookup=inquiry.lookup,
        attempts=inquiry.attempts,
        source=inquiry.source,
        length=inquiry.length,
        sent=inquiry.sent,
        status=inquiry.status,
        reason=reason,
        text=text,
        milliseconds=seconds * 1000,
    )


def _judge(inquiry: Inquiry) -> Verdict:
    if inquiry.fault is not None:
        return "error", f"a fault of this node: {inquiry.fault}"
    if inquiry.source is not None:
        return _answered(inquiry, inquiry.source)
    if inquiry.left:
        return "client_gone", "the client left before there was an answer"
    match inquiry.refusal:
        case RangeInvalid() as error:
            return "invalid", error.message
        case OCIError(detail={"filtered": True}) as error:
            return "filtered", f"{error.message}, by this node's settings"
    if inquiry.attempts:
        return "failed", f"none of the peers gave it: {_failures(inquiry)}{_own(inquiry)}"
    return _unasked(inquiry, inquiry.lookup)


def _answered(inquiry: Inquiry, source: Source) -> Verdict:
    if inquiry.is_complete:
        where = (
            "this node's own content" if source == "local" else f"{_givers(inquiry)}{_own(inquiry)}"
        )
        return None, f"from {where}"
    so_far = f"after {inquiry.sent} of {inquiry.length} bytes"
    if inquiry.left:
        return "client_gone", f"the client left {so_far}"
    cause = (
        "this node's store broke off"
        if source == "local"
        else f"no peer is left: {_failures(inquiry)}"
    )
    return "cut", f"cut short {so_far}, {cause}"


def _unasked(inquiry: Inquiry, lookup: Lookup | None) -> Verdict:
    """Say why no peer was asked."""
    if lookup is None:
        return "not_found", str(inquiry.refusal or "it is not here, and no peer is asked")
    if lookup.error is not None:
        return "lookup_failed", f"the lookup failed: {lookup.error}{_own(inquiry)}"
    if lookup.found:
        return (
            "shunned",
            f"{lookup.found} peers have it, but sent wrong bytes or broke off just now{_own(inquiry)}",
        )
    if inquiry.local == "too_old":
        return "too_old", f"no peer has a younger one{_own(inquiry)}"
    if inquiry.local == "away":
        return "store_away", f"no peer has it{_own(inquiry)}"
    if not lookup.ended:
        return "lookup_timeout", "no peer was found in time (--mirror-resolve-timeout)"
    return "not_found", "nobody has it: neither this node nor any peer it knows of"


def _own(inquiry: Inquiry) -> str:
    """Return what kept this node's own content out of it, if anything did."""
    match inquiry.local:
        case "too_old":
            hours = f"{inquiry.age / 3600:.1f} h"
            return f"; the tag here was last seen at its registry {hours} ago, which is too long for --tag-ttl"
        case "away":
            return "; this node's own store is away"
        case _:
            return ""


def _givers(inquiry: Inquiry) -> str:
    gave = [each for each in inquiry.attempts if each["bytes"] or each["outcome"] == "ok"]
    still = {True: " while it was pulling it", False: ""}
    return (
        _listed([f"{each['addr']}{still[bool(each.get('in_flight'))]}" for each in gave])
        or "a peer"
    )


def _failures(inquiry: Inquiry) -> str:
    failed = [
        f"{each['addr']} {_OUTCOMES.get(str(each['outcome']), str(each['outcome']))}"
        for each in inquiry.attempts
        if each["outcome"] != "ok"
    ]
    return _listed(failed) or "nobody else has it"


def _listed(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more
