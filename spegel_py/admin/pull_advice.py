"""What would have made a pull faster. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from spegel_py.admin.image_pulls import ImagePull
from spegel_py.outcomes import AttemptOutcome, MissReason
from spegel_py.tools.human import size

SLOW = 20_000_000
"""Bytes per second from one peer, below which a second peer helps: several peers share a large
blob then (--mirror-parallel)."""

LARGE = 8_000_000
"""Bytes of a pull, from which on its rate says something."""

_REASONS = {
    MissReason.NOT_FOUND: (
        "no other node had {parts}: a node that pulls the image first, or at the same time, "
        "shares it"
    ),
    MissReason.LOOKUP_TIMEOUT: (
        "no peer was found in time for {parts}: a larger --mirror-resolve-timeout waits longer"
    ),
    MissReason.LOOKUP_FAILED: "the lookup failed for {parts}: spegel-py doctor names the cause",
    MissReason.SHUNNED: (
        "peers with {parts} had sent wrong bytes or broken off just before: spegel-py peers "
        "shows their health"
    ),
    MissReason.FAILED: "the peers with {parts} failed: spegel-py peers shows their health",
    MissReason.CUT: "the last peer with {parts} broke off: one more node with the image helps",
    MissReason.FILTERED: (
        "{parts} is not mirrored: --mirrored-registries or --registry-filters exclude it"
    ),
    MissReason.TOO_OLD: (
        "the tag was last seen at its registry too long ago: a longer --tag-ttl accepts it"
    ),
    MissReason.UNBELIEVED: (
        "the tag came from the registry, which is right where no node is to be believed: "
        "--tags-from-peers and --tag-witnesses say who is"
    ),
    MissReason.STORE_AWAY: "containerd did not answer for {parts}: start it",
    MissReason.ERROR: "a fault of this node cost {parts}: its log has the traceback",
}
"""The advice for parts that went to the registry, by the reason of the miss."""

_LOST = {
    AttemptOutcome.STALLED: "which stalled",
    AttemptOutcome.UNREACHABLE: "which could not be reached",
    AttemptOutcome.MISMATCH: "which sent wrong bytes",
    AttemptOutcome.UNPROVEN: "whose answer was not proven",
    AttemptOutcome.SLOW: "which was slow",
    AttemptOutcome.BUSY: "which was busy (--max-transfers-per-peer there)",
}
"""The words for peers that cost time."""

LOST = 0.2
"""Seconds lost with one peer, from which on they are told."""


def advice(pull: ImagePull) -> list[str]:
    """Return the causes that made a pull slower than it could be; empty if there is none."""
    return [*_missed(pull), *_lost(pull), *_one_slow_peer(pull)]


def _missed(pull: ImagePull) -> Iterator[str]:
    """Yield a line for each reason for which parts, or the tag, went to the registry."""
    missed = [part for part in pull.parts.values() if not part.is_answered]
    reasons = Counter(part.reason for part in missed)
    for reason, count in reasons.most_common():
        if text := _REASONS.get(MissReason(reason)) if reason else None:
            yield text.format(parts=_counted(count))
    first = pull.records[0]
    if not pull.parts and first["reason"] in _REASONS:
        name = "the tag" if first["key"] == pull.image else "the image"
        yield _REASONS[first["reason"]].format(parts=name)


def _lost(pull: ImagePull) -> Iterator[str]:
    """Yield a line for each peer that cost time."""
    lost: Counter[tuple[str, str]] = Counter()
    for record in pull.records:
        for each in record["attempts"]:
            if each["outcome"] in set(_LOST):
                lost[each["addr"], each["outcome"]] += each["ms"]
    for (address, outcome), milliseconds in lost.most_common():
        if milliseconds >= LOST * 1000:
            words = _LOST[AttemptOutcome(outcome)]
            yield f"{milliseconds / 1000:.1f} s went by with {address}, {words}"


def _one_slow_peer(pull: ImagePull) -> Iterator[str]:
    """Yield a line if one peer alone sent the image, and slowly."""
    addresses = {address for part in pull.parts.values() for address in part.peers}
    count = sum(part.peers.total() for part in pull.parts.values())
    seconds = pull.end - pull.at
    if len(addresses) == 1 and count >= LARGE and seconds > 0 and count / seconds < SLOW:
        yield (
            f"{addresses.pop()} alone sent {size(count / seconds)}/s: a second node with the "
            "image shares the work"
        )


def _counted(count: int) -> str:
    return "1 part" if count == 1 else f"{count} parts"
