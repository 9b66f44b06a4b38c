"""The traffic of the last minutes, from the pull records: bytes by peer and by time. Pure.

The plots are made from the records that are kept anyway, and from the open requests. So they reach
back before the first view, and cost nothing while nobody views them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spegel_py.oci.distribution import PullClient
from spegel_py.outcomes import AttemptOutcome, ContentSource


@dataclass(frozen=True, slots=True)
class PeerShare:
    """The part of an answer that one peer sent; `failed` is True if its request failed."""

    peer: str
    bytes: int
    failed: bool


@dataclass(frozen=True, slots=True)
class TrafficRow:
    """The part of a pull record that the plots need.

    `bytes` came from `origin`, also if the answer ended short. A person's request is measured:
    its bytes are shown, but it does not count in the hit rate.
    """

    at: float
    seconds: float
    source: ContentSource
    origin: ContentSource
    bytes: int
    pieces: tuple[PeerShare, ...] = ()
    is_measured: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TrafficRow:
        """Return the row of a record as `PullRecord.as_json` returns it."""
        source = ContentSource(record["source"] or ContentSource.NONE)
        return cls(
            at=record["at"],
            seconds=record["ms"] / 1000,
            source=source if record["verdict"] == "hit" else ContentSource.NONE,
            origin=ContentSource.LOCAL if source is ContentSource.LOCAL else ContentSource.PEER,
            bytes=sum(record["bytes"].values()),
            pieces=tuple(_piece(each) for each in record["attempts"]),
            is_measured=record["client"] != PullClient.RUNTIME,
        )


def _piece(attempt: Mapping[str, Any]) -> PeerShare:
    outcome = AttemptOutcome(attempt["outcome"]) if attempt["outcome"] else None
    failed = outcome is not None and (outcome.is_failure or outcome is AttemptOutcome.LOOPS)
    return PeerShare(attempt["peer"], attempt["bytes"] or 0, failed)


@dataclass(slots=True)
class PeerTraffic:
    """The sums of the requests to one peer."""

    asked: int = 0
    failed: int = 0
    bytes: int = 0


def by_peer(rows: Iterable[TrafficRow]) -> Mapping[str, PeerTraffic]:
    """Return the traffic of each peer, by its id."""
    found: dict[str, PeerTraffic] = {}
    for row in rows:
        for piece in row.pieces:
            traffic = found.setdefault(piece.peer, PeerTraffic())
            traffic.asked += 1
            traffic.failed += piece.failed
            traffic.bytes += piece.bytes
    return found


@dataclass(slots=True)
class TimeBin:
    """A time interval: the bytes sent in it, and the requests that began in it, by source."""

    begin: float
    bytes: dict[ContentSource, float] = field(
        default_factory=lambda: dict.fromkeys((ContentSource.LOCAL, ContentSource.PEER), 0.0)
    )
    requests: dict[ContentSource, int] = field(
        default_factory=lambda: dict.fromkeys(ContentSource, 0)
    )

    @property
    def hit_rate(self) -> float | None:
        """The share of requests that were hits; None without requests."""
        total = sum(self.requests.values())
        return None if not total else 1 - self.requests[ContentSource.NONE] / total


def series(
    rows: Iterable[TrafficRow], *, now: float, width: float, count: int
) -> Sequence[TimeBin]:
    """Return `count` bins of `width` seconds. The last bin contains `now`.

    The edges of bins are fixed in time.

    The bytes of a body are spread evenly over the time of its request.
    """
    last = now // width * width
    bins = [TimeBin(last - (count - 1 - number) * width) for number in range(count)]
    first = bins[0].begin
    for row in rows:
        number = int((row.at - first) // width)
        if 0 <= number < count and not row.is_measured:
            bins[number].requests[row.source] += 1
        _spread(bins, row, first, width)
    return bins


def _spread(bins: Sequence[TimeBin], row: TrafficRow, first: float, width: float) -> None:
    if not row.bytes or row.at + row.seconds < first:
        return
    end = row.at + max(row.seconds, 1e-3)
    low, high = int((row.at - first) // width), int((end - first) // width)
    for number in range(max(0, low), min(len(bins) - 1, high) + 1):
        begin = bins[number].begin
        overlap = min(end, begin + width) - max(row.at, begin)
        bins[number].bytes[row.origin] += row.bytes * max(0.0, overlap) / (end - row.at)
