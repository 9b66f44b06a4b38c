"""What a run found and whether that will do: one table, which is Markdown too, and JSON. Pure."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.report import aligned
from tests.faults.chaos.pulls import DEADLINE, Pull
from tests.faults.chaos.rows import Expected

ALLOWANCE = 5.0
"""Seconds that a fault may cost a pull at most."""

_HEAD = (
    "fault",
    "at once",
    "pulls",
    "succeeded",
    "digests right",
    "p50 s",
    "max s",
    "undisturbed s",
    "failed tries",
    "peers failed",
    "MB local",
    "MB peers",
    "MB registry",
    "misses",
    "verdict",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The pulls of one row, `at_once` at the same time; `error` says why it could not be played to its end."""

    row: str
    at_once: int
    pulls: tuple[Pull, ...] = ()
    undisturbed: tuple[float, ...] = ()
    """Seconds of an undisturbed pull shortly before each of the pulls."""
    expected: Expected = Expected.SUCCEED
    why: str = ""
    error: str = ""
    left_out: str = ""
    """Why this machine cannot play it."""

    @property
    def missed(self) -> list[str]:
        """Return the bounds that were missed, in words."""
        if self.left_out:
            return []
        found = [self.error] if self.error else []
        if any(pull.seconds >= DEADLINE for pull in self.pulls):
            found.append("a pull hung")
        if any(pull.content == "wrong" for pull in self.pulls):
            found.append("wrong content")
        if any(pull.complaints for pull in self.pulls):
            found.append("a miss has no or a wrong reason")
        if self.expected is Expected.FAIL:
            return found + (
                ["a pull succeeded"] if any(pull.succeeded for pull in self.pulls) else []
            )
        if any(not pull.succeeded for pull in self.pulls):
            found.append("a pull failed")
        elif self.expected is Expected.SUCCEED and any(pull.errors for pull in self.pulls):
            found.append("a pull was tried again")
        if any(pull.succeeded and pull.content == "incomplete" for pull in self.pulls):
            found.append("incomplete content")
        late = [
            pull.seconds - calm for pull, calm in zip(self.pulls, self.undisturbed, strict=True)
        ]
        if max(late, default=0.0) > ALLOWANCE:
            found.append(f"{max(late):.1f} s late")
        return found

    @property
    def verdict(self) -> str:
        """Return the verdict in words."""
        if self.left_out:
            return f"left out: {self.left_out}"
        if self.missed:
            return f"MISSED: {', '.join(self.missed)}"
        return "ok" if self.expected is Expected.SUCCEED else "as expected"


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return a page: the conditions, the table, what else than success was expected and why, why pulls failed, and what
    is wrong with the reasons of misses."""
    lines = [f"- {name}: {value}" for name, value in conditions.items()]
    errors = sorted(
        {f"- {one.row}: {error}" for one in outcomes for pull in one.pulls for error in pull.errors}
    )
    wrong = sorted(
        {
            f"- {one.row}: {text}"
            for one in outcomes
            for pull in one.pulls
            for text in pull.complaints
        }
    )
    reasons = {f"- {one.row}: {one.expected.value}; {one.why}" for one in outcomes if one.why}
    table = aligned([_HEAD, *map(_line, outcomes)])
    return "\n".join(
        ["# Chaos", "", *lines, "", table, "", *sorted(reasons), "", *errors, "", *wrong, ""]
    )


def as_json(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return everything as one JSON object."""
    rows = [
        asdict(outcome) | {"expected": outcome.expected.value, "missed": outcome.missed}
        for outcome in outcomes
    ]
    return json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n"


def _line(outcome: Outcome) -> tuple[str, ...]:
    pulls = outcome.pulls
    seconds = [pull.seconds for pull in pulls]
    return (
        outcome.row,
        str(outcome.at_once),
        str(len(pulls)),
        str(sum(pull.succeeded for pull in pulls)),
        str(sum(pull.content == "right" for pull in pulls)),
        f"{statistics.median(seconds):.1f}" if seconds else "",
        f"{max(seconds):.1f}" if seconds else "",
        f"{statistics.median(outcome.undisturbed):.1f}" if outcome.undisturbed else "",
        str(sum(len(pull.errors) for pull in pulls)),
        str(sum(pull.failures or 0 for pull in pulls)),
        _megabytes(pull.local for pull in pulls),
        _megabytes(pull.peer for pull in pulls),
        _megabytes(pull.registry for pull in pulls),
        _reasons(pulls),
        outcome.verdict,
    )


def _reasons(pulls: Iterable[Pull]) -> str:
    """Return how many misses had which reason."""
    counts: Counter[str] = Counter()
    for pull in pulls:
        counts.update(dict(pull.misses))
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _megabytes(counts: Iterable[int | None]) -> str:
    """Return the mean of those that are known; what died with its node is not."""
    known = [count for count in counts if count is not None]
    return f"{statistics.mean(known) / 1e6:.1f}" if known else "–"
