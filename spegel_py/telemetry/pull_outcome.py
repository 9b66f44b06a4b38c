"""The one place that decides why a pull was a hit or a miss. Pure.

Metric, log line and record are all made from the PullRecord that is returned here, so they agree.
"""

from __future__ import annotations

from spegel_py.errors import OCIError, RangeInvalid
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, ContentSource, LocalState, MissReason
from spegel_py.telemetry.pull_record import PullContext, PullRecord
from spegel_py.wording import PEER_HAS_NOT, STORE_AWAY, tag_too_old

NAMED = 3
"""Peers that the text names at most; the record names every peer."""

LONGEST_NAME = 253
"""Characters of a node's name that are kept: DNS has no longer names."""

_OUTCOMES = {
    AttemptOutcome.NOT_FOUND: PEER_HAS_NOT,
    AttemptOutcome.TOO_OLD: "has too old a tag",
    AttemptOutcome.UNBELIEVED: "has a tag that is not believed",
    AttemptOutcome.REFUSED: "refused",
    AttemptOutcome.BUSY: "is busy",
    AttemptOutcome.UNREACHABLE: "cannot be reached",
    AttemptOutcome.STALLED: "stalled",
    AttemptOutcome.MISMATCH: "sent wrong bytes",
    AttemptOutcome.UNPROVEN: "did not prove its answer",
    AttemptOutcome.SLOW: "was too slow",
    AttemptOutcome.LOOPS: "takes it from here itself",
    AttemptOutcome.ABANDONED: "did not answer in time",
}
"""The words for a request to a peer that gave nothing."""

_NO_ANSWERS = {AttemptOutcome.UNBELIEVED, AttemptOutcome.NOT_FOUND, AttemptOutcome.ABANDONED}
"""Outcomes beside which a tag that is not believed is the reason of a miss."""

_Judgement = tuple[MissReason | None, str]


def record_of(context: PullContext, *, seconds: float, node: str = "") -> PullRecord:
    """Return the record of a request that is over and took `seconds`, at the node of this name."""
    pull = context.pull
    digest = context.digest or pull.digest
    reason, text = _judge(context)
    return PullRecord(
        at=context.at,
        method="HEAD" if pull.head else "GET",
        kind=pull.kind.name.lower(),
        key=pull.key,
        reference=_reference(pull),
        registry=pull.registry,
        range=pull.range_header,
        digest=str(digest) if digest else None,
        local=context.local,
        lookup=context.lookup,
        attempts=context.attempts,
        source=context.source,
        length=context.length,
        sent=context.sent,
        status=context.status,
        reason=reason,
        text=text,
        milliseconds=seconds * 1000,
        client=pull.client,
        node=pull.node[:LONGEST_NAME] if node and pull.node and pull.node != node else None,
    )


def _judge(context: PullContext) -> _Judgement:
    """Return the reason of a miss, None for a hit, and the text."""
    # Case 1: this program failed; nothing else that is known about the request matters.
    if context.fault is not None:
        return MissReason.ERROR, f"a fault of this node: {context.fault}"
    # Case 2: content was sent, all of it or a part.
    if context.is_answered:
        return _judge_answer(context)
    # Case 3: the client left before the head of an answer.
    if context.left:
        return MissReason.CLIENT_GONE, "the client left before there was an answer"
    # Case 4: the request itself was refused.
    match context.refusal:
        case RangeInvalid() as error:
            return MissReason.INVALID, error.message
        case OCIError(detail={"filtered": True}) as error:
            return MissReason.FILTERED, f"{error.message}, by this node's settings"
        case OCIError(detail={"challenged": True}) as error:
            return MissReason.CHALLENGED, error.message
        case OCIError(detail={"private": True}) as error:
            return MissReason.PRIVATE, error.message
    # Case 5: peers were asked, and none of them gave the content.
    if context.attempts:
        text = f"none of the peers gave it: {_failures(context)}{_local_cause(context)}"
        outcomes = {each.outcome for each in context.attempts}
        is_unbelieved = AttemptOutcome.UNBELIEVED in outcomes and outcomes <= _NO_ANSWERS
        return MissReason.UNBELIEVED if is_unbelieved else MissReason.FAILED, text
    # Case 6: no peer was asked.
    return _judge_lookup(context)


def _judge_answer(context: PullContext) -> _Judgement:
    is_local = context.source is ContentSource.LOCAL
    if context.is_complete:
        givers = f"{_givers(context)}{_local_cause(context)}"
        return None, "from this node's own content" if is_local else f"from {givers}"
    so_far = f"after {context.sent} of {context.length} bytes"
    if context.left:
        return MissReason.CLIENT_GONE, f"the client left {so_far}"
    failures = f"no peer is left: {_failures(context)}"
    cause = "this node's store broke off" if is_local else failures
    return MissReason.CUT, f"cut short {so_far}, {cause}"


def _judge_lookup(context: PullContext) -> _Judgement:
    """Return why no peer was asked."""
    lookup, cause = context.lookup, _local_cause(context)
    if lookup is None:
        refusal = context.refusal or "it is not here, and no peer is asked"
        return MissReason.NOT_FOUND, str(refusal)
    if lookup.error is not None:
        return MissReason.LOOKUP_FAILED, f"the lookup failed: {lookup.error}{cause}"
    if lookup.found:
        text = f"{lookup.found} peers have it, but sent wrong bytes or broke off just now{cause}"
        return MissReason.SHUNNED, text
    if context.local is LocalState.UNBELIEVED:
        return MissReason.UNBELIEVED, f"no peer has it{cause}"
    if context.local is LocalState.TOO_OLD:
        return MissReason.TOO_OLD, f"no peer has a younger one{cause}"
    if context.local is LocalState.AWAY:
        return MissReason.STORE_AWAY, f"no peer has it{cause}"
    if not lookup.ended:
        text = "no peer was found in time (--mirror-resolve-timeout)"
        return MissReason.LOOKUP_TIMEOUT, text
    return MissReason.NOT_FOUND, "nobody has it: neither this node nor any peer it knows of"


def _local_cause(context: PullContext) -> str:
    """Return the reason why this node's own content was not used, empty if there is none."""
    match context.local:
        case LocalState.UNBELIEVED:
            return "; the tag here came from a node whose word does not count any more"
        case LocalState.TOO_OLD:
            return f"; {tag_too_old(context.age)}"
        case LocalState.AWAY:
            return f"; {STORE_AWAY}"
        case _:
            return ""


def _givers(context: PullContext) -> str:
    """Return the peers that bytes came from."""
    names = [
        f"{each.address}{' while it was pulling it' if each.in_flight else ''}"
        for each in context.attempts
        if each.bytes or each.outcome is AttemptOutcome.OK
    ]
    return _listed(names) or "a peer"


def _failures(context: PullContext) -> str:
    """Return the peers that failed, each with its failure."""
    names = [
        f"{each.address} {_OUTCOMES[each.outcome] if each.outcome else None}"
        for each in context.attempts
        if each.outcome is not AttemptOutcome.OK
    ]
    return _listed(names) or "nobody else has it"


def _listed(names: list[str]) -> str:
    """Return the first NAMED different names, and the number of further names."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - NAMED} more" if len(unique) > NAMED else ""
    return ", ".join(unique[:NAMED]) + more


def _reference(pull: PullRequest) -> str:
    """Return the full reference that was requested, by which all parts of an image are found."""
    if pull.name is not None:
        return pull.name
    registry = f"{pull.registry}/" if pull.registry else ""
    return f"{registry}{pull.repository}@{pull.reference}"
