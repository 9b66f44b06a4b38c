"""What a run found and whether that will do: one table, which is Markdown too, and JSON. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spegel_py.supervision.conditions import Tier
from tests.benchmarks.report import aligned, finite, flat

SLOWER = 1.5
"""Times the undisturbed p99 that a disturbed one may be."""
WAITS = 1
"""Waits of one pull on one dead peer that are allowed."""
AT_ONCE = 0.25
"""Seconds after a death in which requests under way break; a later one has waited on a peer that was dead."""

_HEAD = (
    "fault",
    "alert",
    "seen s",
    "known s",
    "over s",
    "all found s",
    "wrong suspicions",
    "foretold in vain",
    "pulls",
    "failed",
    "p99 s",
    "waits",
    "verdict",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """One pull by a containerd, as a kubelet would have it; `began` is Unix time."""

    node: str
    began: float
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A node that was away, from `down` to `up`, in Unix time."""

    node: str
    down: float
    up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request of a node to a peer that failed or stalled at that Unix time."""

    node: str
    peer: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One alert that one node was to raise; seconds from the fault, and from its mending. None: it did not happen."""

    node: str
    condition: str
    tier: str
    seen: float | None
    seen_limit: float
    over: float | None = None
    over_limit: float = math.inf
    is_on_record: bool = False
    """Whether the alert is written down as closed, with what was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Seconds, None where it did not happen, and how many it may be."""

    seconds: float | None
    limit: float

    @property
    def is_missed(self) -> bool:
        return self.seconds is None or self.seconds > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row, played to its end unless there is an `error`."""

    row: str
    sightings: tuple[Sighting, ...] = ()
    known: Measure | None = None
    """Until no other node offers the victim."""
    lookup: Measure | None = None
    """From the mending until all find all."""
    wrong: tuple[str, ...] = ()
    """Alerts about peers that were well."""
    foretold: tuple[str, ...] = ()
    """Alerts that foretold the end of peers that were well: counted, but no miss, since they say what may come."""
    pulls: tuple[Pull, ...] = ()
    calm: tuple[Pull, ...] = ()
    """Undisturbed pulls shortly before, where they are compared."""
    is_timed: bool = False
    """Whether there are pulls enough for the p99 to be judged."""
    waits: int | None = None
    """The most waits of one pull on one dead peer."""
    error: str = ""

    @property
    def missed(self) -> list[str]:
        """Return the objectives that were missed, in words."""
        found = [self.error] if self.error else []
        for condition, those in _by_condition(self.sightings).items():
            found += _missed(condition, those)
        if self.known is not None and self.known.is_missed:
            found.append(f"known everywhere after {_seconds(self.known.seconds)} s")
        if self.lookup is not None and self.lookup.is_missed:
            found.append(f"all found after {_seconds(self.lookup.seconds)} s")
        if self.wrong:
            found.append(f"wrong suspicions: {', '.join(self.wrong)}")
        if failed := sum(bool(pull.error) for pull in self.pulls):
            found.append(f"{failed} pulls failed")
        if self.is_timed and not self.error and not p99(self.pulls) <= SLOWER * p99(self.calm):
            found.append(f"p99 is {p99(self.pulls) / p99(self.calm):.2f} times the undisturbed")
        if self.waits is not None and self.waits > WAITS:
            found.append(f"a pull waited {self.waits} times on a dead peer")
        return found

    @property
    def verdict(self) -> str:
        """Return the verdict in words."""
        return f"MISSED: {'; '.join(self.missed)}" if self.missed else "ok"


def p99(pulls: Collection[Pull]) -> float:
    """Return the seconds that 99 of 100 pulls took at most; NaN without pulls."""
    ordered = sorted(pull.seconds for pull in pulls)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.nan


def most_waits(
    pulls: Iterable[Pull], failures: Collection[Failure], deaths: Collection[Death]
) -> int:
    """Return how often one pull has waited at most on one peer that was dead already."""
    waits = Counter(
        (pull, death)
        for pull in pulls
        for failure in failures
        if failure.node == pull.node and pull.began <= failure.at <= pull.began + pull.seconds
        for death in deaths
        if death.node == failure.peer and death.down + AT_ONCE < failure.at <= death.up
    )
    return max(waits.values(), default=0)


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return a page: the conditions, the table, and why pulls failed."""
    lines = [f"- {name}: {flat(value)}" for name, value in conditions.items()]
    errors = sorted(
        {f"- {one.row}: {pull.error}" for one in outcomes for pull in one.pulls if pull.error}
    )
    return "\n".join(["# Fault drill", "", *lines, "", table(outcomes), "", *errors, ""])


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table: the slowest of all nodes, and behind it how slow it may be."""
    return aligned([_HEAD, *map(_line, outcomes)])


def as_json(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return everything as one JSON object."""
    rows = [finite(asdict(outcome)) | {"missed": outcome.missed} for outcome in outcomes]
    return (
        json.dumps(
            {"conditions": finite(dict(conditions)), "rows": rows}, indent=1, allow_nan=False
        )
        + "\n"
    )


def slowest(values: Collection[float | None]) -> float | None:
    """Return the largest, None where one is missing."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _line(outcome: Outcome) -> tuple[str, ...]:
    groups = _by_condition(outcome.sightings)
    seen = (
        _limited(slowest([s.seen for s in those]), those[0].seen_limit) for those in groups.values()
    )
    over = (
        _limited(slowest([s.over for s in those]), those[0].over_limit) for those in groups.values()
    )
    calm = f" (calm {_seconds(p99(outcome.calm))})" if outcome.calm else ""
    return (
        outcome.row,
        ", ".join(
            f"{those[0].condition} {those[0].tier} ×{len(those)}" for those in groups.values()
        ),
        ", ".join(seen),
        _measure(outcome.known),
        ", ".join(over),
        _measure(outcome.lookup),
        str(len(outcome.wrong)),
        str(len(outcome.foretold)),
        str(len(outcome.pulls)),
        str(sum(bool(pull.error) for pull in outcome.pulls)),
        f"{_seconds(p99(outcome.pulls))}{calm}" if outcome.pulls else "",
        "" if outcome.waits is None else str(outcome.waits),
        outcome.verdict,
    )


def _by_condition(sightings: Iterable[Sighting]) -> dict[tuple[str, float], list[Sighting]]:
    """Group what is to be seen by when; a row may give nodes of one condition different limits."""
    groups: dict[tuple[str, float], list[Sighting]] = {}
    for sighting in sightings:
        groups.setdefault((sighting.condition, sighting.seen_limit), []).append(sighting)
    return groups


def _missed(key: tuple[str, float], those: Sequence[Sighting]) -> list[str]:
    condition, limit = key
    unseen = [one for one in those if one.seen is None]
    late = [one.seen for one in those if one.seen is not None and one.seen > limit]
    lasting = [
        one
        for one in those
        if one.seen is not None and (one.over is None or one.over > one.over_limit)
    ]
    bare = [
        one
        for one in those
        if one.seen is not None and one.over is not None and not one.is_on_record
    ]
    return [
        *([f"{condition} not seen by {len(unseen)} of {len(those)}"] if unseen else []),
        *([f"{condition} seen after {max(late):.1f} s"] if late else []),
        *([f"{condition} not over in time on {len(lasting)}"] if lasting else []),
        *([f"{condition} without an audit trail on {len(bare)}"] if bare else []),
    ]


def _measure(measure: Measure | None) -> str:
    return "" if measure is None else _limited(measure.seconds, measure.limit)


def _limited(seconds: float | None, limit: float) -> str:
    return f"{_seconds(seconds)} ≤ {limit:g}" if math.isfinite(limit) else _seconds(seconds)


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None or math.isnan(seconds) else f"{seconds:.1f}"


def limits(tier: Tier, seen: float | None) -> tuple[float, float]:
    """Return by when an alert of a tier is to be seen, sooner if a row says so, and by when it is to be over."""
    return min(tier.detect, seen or math.inf), tier.recover
