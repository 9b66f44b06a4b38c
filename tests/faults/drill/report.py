"""The outcome of a row of the drill, its objectives, and the page that shows all outcomes. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spegel_py.supervision.conditions import Tier
from tests.faults.pulls import Attempt
from tests.faults.report import Columns, Outcome, decimal, page, table

SAVED = 0.95
"""Share of a node's only copies that must be elsewhere before the node is gone."""
SLOWER = 1.5
"""Factor by which the p99 of disturbed pulls may exceed the undisturbed one."""
WAITS = 1
"""How often one pull may wait for one dead peer."""
AT_ONCE = 0.25
"""Seconds after a death in which requests in progress break; a later failure is a wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A node that was away from `down` to `up`, in Unix time."""

    node: str
    down: float
    up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request of a node to a peer that failed or stalled at this Unix time."""

    node: str
    peer: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """An alert that a node had to raise. A time is None if the event did not happen."""

    node: str
    condition: str
    tier: str
    seen: float | None
    """Seconds from the fault until the alert was open."""
    seen_limit: float
    over: float | None = None
    """Seconds from the mending until the alert was closed."""
    over_limit: float = math.inf
    is_on_record: bool = False
    """Whether the history has the closed alert and a verified repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Seconds until an event, None if it did not happen, and their limit."""

    seconds: float | None
    limit: float

    @property
    def is_missed(self) -> bool:
        return self.seconds is None or self.seconds > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOutcome(Outcome):
    """The measurements of one row."""

    sightings: tuple[Sighting, ...] = ()
    known: Measure | None = None
    """From the fault until no other node offers the victim."""
    lookup: Measure | None = None
    """From the mending until every node finds every image."""
    wrong: tuple[str, ...] = ()
    """Alerts about peers that were well."""
    foretold: tuple[str, ...] = ()
    """Predictions of failure for peers that were well. They are counted, but are no miss."""
    pulls: tuple[Attempt, ...] = ()
    calm: tuple[Attempt, ...] = ()
    """Undisturbed pulls shortly before, if the row compares with them."""
    is_timed: bool = False
    """Whether there are enough pulls to judge the p99."""
    waits: int | None = None
    """How often one pull waited for one dead peer, at most."""

    moved: Measure | None = None
    """From the fault until other nodes keep all images."""
    saved: tuple[int, int] | None = None
    """Only copies of the victim that were elsewhere before its death, of how many."""
    lead: float | None = None
    """Seconds from the first prediction of a failure until it came."""
    is_foretold: bool = True
    """Whether a failure that had to be predicted was, and was scored so."""

    def missed_bounds(self) -> list[str]:
        found = []
        for sightings in _by_condition(self.sightings):
            found += _missed(sightings)
        if self.known is not None and self.known.is_missed:
            found.append(f"known everywhere after {_decimal(self.known.seconds)} s")
        if self.lookup is not None and self.lookup.is_missed:
            found.append(f"all found after {_decimal(self.lookup.seconds)} s")
        found += self._missed_images()
        if self.wrong:
            found.append(f"wrong suspicions: {', '.join(self.wrong)}")
        if failed := sum(bool(pull.error) for pull in self.pulls):
            found.append(f"{failed} pulls failed")
        if self.is_timed and not self.error and not p99(self.pulls) <= SLOWER * p99(self.calm):
            found.append(f"p99 is {p99(self.pulls) / p99(self.calm):.2f} times the undisturbed")
        if self.waits is not None and self.waits > WAITS:
            found.append(f"a pull waited {self.waits} times on a dead peer")
        return found

    def _missed_images(self) -> list[str]:
        found = []
        if self.moved is not None and self.moved.is_missed:
            found.append(f"images elsewhere after {_decimal(self.moved.seconds)} s")
        if self.saved is not None and self.saved[0] < SAVED * self.saved[1]:
            found.append(f"{self.saved[0]} of {self.saved[1]} only copies were saved")
        if not self.is_foretold:
            found.append("the failure was not predicted")
        return found


def p99(pulls: Collection[Attempt]) -> float:
    """Return the seconds that 99 of 100 pulls took at most; NaN without pulls."""
    ordered = sorted(pull.seconds for pull in pulls)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else math.nan


def most_waits(
    pulls: Iterable[Attempt], failures: Collection[Failure], deaths: Collection[Death]
) -> int:
    """Return how often one pull waited for one peer that was already dead, at most."""
    waits = Counter(
        (pull, death)
        for pull in pulls
        for failure in failures
        if failure.node == pull.node and pull.began <= failure.at <= pull.began + pull.seconds
        for death in deaths
        if death.node == failure.peer and death.down + AT_ONCE < failure.at <= death.up
    )
    return max(waits.values(), default=0)


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[DrillOutcome]) -> str:
    """Return the page, with the errors of pulls below the table.

    A cell shows the slowest node, and its limit.
    """
    errors = (f"{one.row}: {pull.error}" for one in outcomes for pull in one.pulls if pull.error)
    return page("Fault drill", conditions, table(_COLUMNS, outcomes), errors)


def slowest(values: Collection[float | None]) -> float | None:
    """Return the largest value; None if any is None."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def limits(tier: Tier, seen: float | None) -> tuple[float, float]:
    """Return the limits, in seconds, for an alert of a tier to open and to close.

    A row may set a tighter limit for the opening.
    """
    return min(tier.detect, seen or math.inf), tier.recover


def _by_condition(sightings: Iterable[Sighting]) -> list[list[Sighting]]:
    """Group sightings by condition and limit, since a row may set several limits."""
    groups: dict[tuple[str, float], list[Sighting]] = {}
    for sighting in sightings:
        groups.setdefault((sighting.condition, sighting.seen_limit), []).append(sighting)
    return list(groups.values())


def _missed(sightings: Sequence[Sighting]) -> list[str]:
    """Return the objectives that nodes with the same condition and limit missed."""
    condition, limit = sightings[0].condition, sightings[0].seen_limit
    seen = [one for one in sightings if one.seen is not None]
    unseen = len(sightings) - len(seen)
    late = [one.seen for one in seen if one.seen is not None and one.seen > limit]
    lasting = [one for one in seen if one.over is None or one.over > one.over_limit]
    unrecorded = [one for one in seen if one.over is not None and not one.is_on_record]
    return [
        *([f"{condition} not seen by {unseen} of {len(sightings)}"] if unseen else []),
        *([f"{condition} seen after {max(late):.1f} s"] if late else []),
        *([f"{condition} not over in time on {len(lasting)}"] if lasting else []),
        *([f"{condition} without an audit trail on {len(unrecorded)}"] if unrecorded else []),
    ]


def _alerts(outcome: DrillOutcome) -> str:
    groups = _by_condition(outcome.sightings)
    return ", ".join(f"{one[0].condition} {one[0].tier} ×{len(one)}" for one in groups)


def _seen(outcome: DrillOutcome) -> str:
    return ", ".join(
        _limited(slowest([each.seen for each in one]), one[0].seen_limit)
        for one in _by_condition(outcome.sightings)
    )


def _over(outcome: DrillOutcome) -> str:
    return ", ".join(
        _limited(slowest([each.over for each in one]), one[0].over_limit)
        for one in _by_condition(outcome.sightings)
    )


def _p99(outcome: DrillOutcome) -> str:
    calm = f" (calm {_decimal(p99(outcome.calm))})" if outcome.calm else ""
    return f"{_decimal(p99(outcome.pulls))}{calm}" if outcome.pulls else ""


def _measure(measure: Measure | None) -> str:
    return "" if measure is None else _limited(measure.seconds, measure.limit)


def _limited(seconds: float | None, limit: float) -> str:
    return f"{_decimal(seconds)} ≤ {limit:g}" if math.isfinite(limit) else _decimal(seconds)


def _decimal(seconds: float | None) -> str:
    return decimal(seconds, "–")


_COLUMNS: Columns[DrillOutcome] = (
    ("fault", lambda one: one.row),
    ("alert", _alerts),
    ("seen s", _seen),
    ("known s", lambda one: _measure(one.known)),
    ("over s", _over),
    ("all found s", lambda one: _measure(one.lookup)),
    ("wrong suspicions", lambda one: str(len(one.wrong))),
    ("foretold in vain", lambda one: str(len(one.foretold))),
    ("images elsewhere s", lambda one: _measure(one.moved)),
    ("only copies saved", lambda one: f"{one.saved[0]} of {one.saved[1]}" if one.saved else ""),
    ("lead s", lambda one: "" if one.lead is None else _decimal(one.lead)),
    ("pulls", lambda one: str(len(one.pulls))),
    ("failed", lambda one: str(sum(bool(pull.error) for pull in one.pulls))),
    ("p99 s", _p99),
    ("waits", lambda one: "" if one.waits is None else str(one.waits)),
    ("verdict", lambda one: one.verdict),
)
