"""The values that the templates show, so that templates compute nothing. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spegel_py.admin.web import ring
from spegel_py.admin.web.ring import Spot
from spegel_py.admin.web.traffic import PeerTraffic, TimeBin
from spegel_py.oci.distribution import Kind
from spegel_py.outcomes import ContentSource, PeerZone
from spegel_py.telemetry.pull_record import PullContext

MOST = 128
"""Peers that are drawn and listed at most. Nobody can tell more peers apart on a picture."""

HEALTH_MARKS = {"healthy": "✓", "suspected": "?", "unhealthy": "✕"}
"""Signs beside the words, so that no state is shown by a colour alone."""


NOTHING = PeerTraffic()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A peer in table and picture, with the `number` that links both.

    `giving` is the number of transfers to the peer now, as far as it is known.
    """

    number: int
    id: str
    address: str
    agent: str
    zone: str
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
        """The end of the id; the beginning is the same for all nodes."""
        return f"…{self.id[-8:]}"


def peers(
    members: Sequence[Mapping[str, Any]],
    *,
    own: str,
    traffic: Mapping[str, PeerTraffic],
    giving: Mapping[str, int],
    most: int = MOST,
) -> Sequence[PeerView]:
    """Return the peers in their order on the ring.

    Of too many peers, unhealthy peers are shown first, then the peers that sent most.

    `giving` counts open transfers by address. It is shown if only one peer has the address.
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
            zone=member["zone"],
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


def zone_bytes(
    members: Iterable[Mapping[str, Any]], *, own: str, traffic: Mapping[str, PeerTraffic]
) -> Mapping[PeerZone, int]:
    """Return the bytes that came from the peers in each kind of zone; `own` is this node's zone.

    Empty if this node names no zone. Peers that have left are not counted.
    """
    found = dict.fromkeys(PeerZone, 0) if own else {}
    for member in members if own else ():
        zone = PeerZone.of(member["zone"], own=own)
        found[zone] += traffic.get(member["id"], NOTHING).bytes
    return found


def addresses(transfers: Mapping[str, int]) -> Mapping[str, int]:
    """Return transfers by plain addresses: a dual-stack listener sees IPv4 addresses mapped."""
    return {address.removeprefix("::ffff:"): count for address, count in transfers.items()}


def _host(authority: str) -> str:
    return authority.rpartition(":")[0].strip("[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PullView:
    """An open request of a client, or of a peer if `to_peer`; `source` is None until the answer."""

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
        """Bytes per second so far."""
        return self.sent / self.seconds if self.seconds > 0.2 else 0.0


def pulls(
    under_way: Iterable[PullContext], *, addresses: Mapping[str, str], now: float
) -> Sequence[PullView]:
    """Return the open requests, the oldest first.

    `addresses` are the addresses of peers by their ids; `now` is Unix time.
    """
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
    """The sums of one minute, as figures beside the plots."""

    begin: float
    bytes: Mapping[ContentSource, float]
    requests: Mapping[ContentSource, int]


def minutes(bins: Sequence[TimeBin], *, each: int) -> Sequence[Minute]:
    """Return the sums of `each` bins, the latest first; the latest sum may have fewer bins."""
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
    """Return the sum of all bins."""
    whole = TimeBin(0.0)
    for one in bins:
        for source, count in one.bytes.items():
            whole.bytes[source] += count
        for source, number in one.requests.items():
            whole.requests[source] += number
    return whole
