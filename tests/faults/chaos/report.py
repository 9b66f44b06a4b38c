"""The outcome of a row of chaos, its bounds, and the page that shows all outcomes. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.chaos.pulls import ChaosPull
from tests.faults.chaos.rows import Expected
from tests.faults.pulls import DEADLINE
from tests.faults.report import Columns, Outcome, decimal, median, page, table

ALLOWANCE = 5.0
"""Seconds that a pull through a fault may take longer than an undisturbed one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOutcome(Outcome):
    """The pulls of one row, `at_once` pulls at the same time."""

    at_once: int
    pulls: tuple[ChaosPull, ...] = ()
    undisturbed: tuple[float, ...] = ()
    """Seconds of an undisturbed pull shortly before each of the pulls."""
    expected: Expected = Expected.SUCCEED
    why: str = ""
    left_out: str = ""
    """Why this machine cannot produce the fault."""

    @property
    def label(self) -> str:
        return f"{self.row}, {self.at_once} at once"

    @property
    def passed(self) -> str:
        if self.left_out:
            return f"left out: {self.left_out}"
        return "ok" if self.expected is Expected.SUCCEED else "as expected"

    def missed_bounds(self) -> list[str]:
        if self.left_out:
            return []
        found = []
        if any(pull.seconds >= DEADLINE for pull in self.pulls):
            found.append("a pull hung")
        if any(pull.content == "wrong" for pull in self.pulls):
            found.append("wrong content")
        if any(pull.complaints for pull in self.pulls):
            found.append("a miss has no or a wrong reason")
        if self.expected is Expected.FAIL:
            return found + ["a pull succeeded"] * any(pull.succeeded for pull in self.pulls)
        if any(not pull.succeeded for pull in self.pulls):
            found.append("a pull failed")
        elif self.expected is Expected.SUCCEED and any(pull.errors for pull in self.pulls):
            found.append("a pull was tried again")
        if any(pull.succeeded and pull.content == "incomplete" for pull in self.pulls):
            found.append("incomplete content")
        late = [
            pull.seconds - seconds
            for pull, seconds in zip(self.pulls, self.undisturbed, strict=True)
        ]
        if max(late, default=0.0) > ALLOWANCE:
            found.append(f"{max(late):.1f} s late")
        return found


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[ChaosOutcome]) -> str:
    """Return the page.

    Below the table stand the rows that may fail, the errors of pulls, and the complaints about
    misses.
    """
    return page(
        "Chaos",
        conditions,
        table(_COLUMNS, outcomes),
        (f"{one.row}: {one.expected.value}; {one.why}" for one in outcomes if one.why),
        (f"{one.row}: {error}" for one in outcomes for pull in one.pulls for error in pull.errors),
        (
            f"{one.row}: {text}"
            for one in outcomes
            for pull in one.pulls
            for text in pull.complaints
        ),
    )


def _reasons(pulls: Iterable[ChaosPull]) -> str:
    """Return the number of misses for each reason."""
    counts: Counter[str] = Counter()
    for pull in pulls:
        counts.update(dict(pull.misses))
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _megabytes(counts: Iterable[int | None]) -> str:
    """Return the mean of the known counts; a node that died took its counts with it."""
    known = [count for count in counts if count is not None]
    return f"{statistics.mean(known) / 1e6:.1f}" if known else "–"


_COLUMNS: Columns[ChaosOutcome] = (
    ("fault", lambda one: one.row),
    ("at once", lambda one: str(one.at_once)),
    ("pulls", lambda one: str(len(one.pulls))),
    ("succeeded", lambda one: str(sum(pull.succeeded for pull in one.pulls))),
    ("digests right", lambda one: str(sum(pull.content == "right" for pull in one.pulls))),
    ("p50 s", lambda one: decimal(median([pull.seconds for pull in one.pulls]))),
    ("max s", lambda one: decimal(max((pull.seconds for pull in one.pulls), default=None))),
    ("undisturbed s", lambda one: decimal(median(one.undisturbed))),
    ("failed tries", lambda one: str(sum(len(pull.errors) for pull in one.pulls))),
    ("peers failed", lambda one: str(sum(pull.failures or 0 for pull in one.pulls))),
    ("MB local", lambda one: _megabytes(pull.local for pull in one.pulls)),
    ("MB peers", lambda one: _megabytes(pull.peer for pull in one.pulls)),
    ("MB registry", lambda one: _megabytes(pull.registry for pull in one.pulls)),
    ("misses", lambda one: _reasons(one.pulls)),
    ("verdict", lambda one: one.verdict),
)
