"""What the page shows, as values that templates have nothing left to compute of. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spegel_py.admin.web import ring
from spegel_py.admin.web.ring import Spot
from spegel_py.admin.web.traffic import PeerTraffic, TimeBin
from spegel_py.oci.distribution import Kind
from spegel_py.outcomes import ContentSource
from spegel_py.telemetry.pull_record import PullContext

MOST = 128
"""Peers that are drawn and listed: what is more can be told apart by nobody, and would be sent to each viewer."""

HEALTH_MARKS = {"healthy": "✓", "suspected": "?", "unhealthy": "✕"}
"""Signs beside the words, so that nothing is told by a colour alone."""


NOTHING = PeerTraffic()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A peer in table and picture, by its `number`; `giving` is how many transfers go to it now, as far as known."""

    number: int
    id: str
    address: str
    agent: str
    health: str
    keys: int
    heard: float | None
    skew: float | None
    traffic: PeerTraffic
    giving: int
    spot: Spot

    @property
    def mark(self) -> str:
        return HEALTH_MARKS.get(self.health, "?")

    @property
    def short(self) -> str:
        """The end of its id, which differs between nodes, where its beginning does not."""
        return f"…{self.id[-8:]}"


def peers(
    members: Sequence[Mapping[str, Any]],
    *,
    own: str,
    traffic: Mapping[str, PeerTraffic],
    giving: Mapping[str, int],
    most: int = MOST,
) -> Sequence[PeerView]:
    """Return peers as they follow on the ring: of many those that are not well, then those that gave most.

    `giving` counts transfers under way by the address they go to, which says whom only where it is one peer's.
    """

    def gave(member: Mapping[str, Any]) -> PeerTraffic:
        return traffic.get(member["id"], NOTHING)

    shown = sorted(
        members, key=lambda member: (member["health"] == "healthy", -gave(member).bytes)
    )[:most]
    by_id = {member["id"]: member for member in shown}
    order = [by_id[each] for each in ring.clockwise(own, list(by_id))]
    hosts = Counter(_host(member["address"]) for member in members)
    spots = ring.spots([gave(member).bytes for member in order])
    return [
        PeerView(
            number=number,
            id=member["id"],
            address=member["address"] or "not known yet",
            agent=member["agent"],
            health=member["health"],
            keys=member["keys"],
            heard=member["heard_seconds"],
            skew=member["skew_seconds"],
            traffic=gave(member),
            giving=giving.get(host, 0) if hosts[host := _host(member["address"])] == 1 else 0,
            spot=spot,
        )
        for number, (member, spot) in enumerate(zip(order, spots, strict=True), 1)
    ]


def addresses(transfers: Mapping[str, int]) -> Mapping[str, int]:
    """Return transfers by plain addresses: a listener for both kinds of IP sees IPv4 ones mapped."""
    return {address.removeprefix("::ffff:"): count for address, count in transfers.items()}


def _host(authority: str) -> str:
    return authority.rpartition(":")[0].strip("[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullView:
    """A request that is being answered: for a client of this node, or `to_peer`. `source` is None until it is known."""

    key: str
    name: str
    digest: str
    kind: str
    to_peer: bool
    source: str | None
    peer: str | None
    sent: int
    length: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second so far."""
        return self.sent / self.seconds if self.seconds > 0.2 else 0.0


def pulls(
    under_way: Iterable[PullContext], *, addresses: Mapping[str, str], now: float
) -> Sequence[PullView]:
    """Return the requests under way, the oldest first; `addresses` are peers' by their ids, `now` is Unix time."""
    return [
        PullView(
            key=f"{one.at:.6f}-{one.pull.key}",
            name=one.pull.label,
            digest=str(one.digest or one.pull.digest or ""),
            kind="manifest" if one.pull.kind is Kind.MANIFEST else "blob",
            to_peer=one.pull.mirrored,
            source=one.source.value if one.is_answered else None,
            peer=addresses.get(one.peer, one.peer) if one.peer else None,
            sent=one.progress(),
            length=one.length,
            seconds=max(0.0, now - one.at),
        )
        for one in under_way
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What the plots show of one minute, in figures."""

    begin: float
    bytes: Mapping[ContentSource, float]
    requests: Mapping[ContentSource, int]


def minutes(bins: Sequence[TimeBin], *, each: int) -> Sequence[Minute]:
    """Return the bins summed up, so many to a minute, the latest first; the latest one may be cut."""
    found = []
    for first in range(0, len(bins), each):
        part = bins[first : first + each]
        found.append(
            Minute(
                begin=part[0].begin,
                bytes={source: sum(one.bytes[source] for one in part) for source in part[0].bytes},
                requests={
                    source: sum(one.requests[source] for one in part) for source in part[0].requests
                },
            )
        )
    return found[::-1]


def total(bins: Iterable[TimeBin]) -> TimeBin:
    """Return all the bins as one."""
    whole = TimeBin(0.0)
    for one in bins:
        for source, count in one.bytes.items():
            whole.bytes[source] += count
        for source, number in one.requests.items():
            whole.requests[source] += number
    return whole
