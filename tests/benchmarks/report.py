"""How figures are shown: one table, which is Markdown and lines up in a terminal too, and JSON.
Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.figures import Figure

_HEAD = ("benchmark", "measured", "conditions", "samples", "result", "target", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one benchmark gave, and how busy the machine was with other things meanwhile."""

    benchmark: str
    figures: tuple[Figure, ...] = ()
    seconds: float = 0.0
    others: float = 0.0
    """Cores that processes other than the benchmark's own used, on average."""
    error: str = ""
    """Why there are no figures."""

    @property
    def is_over(self) -> bool:
        return bool(self.error) or any(figure.is_over for figure in self.figures)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table of all figures."""
    return aligned([_HEAD, *(row for outcome in outcomes for row in _rows(outcome))])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of these rows, the head first, whose columns line up."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join(
        [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
    )


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return a page: the conditions, the table, and how busy the machine was."""
    lines = [f"- {name}: {flat(value)}" for name, value in conditions.items()]
    return "\n".join(["# Benchmarks", "", *lines, "", table(outcomes), "", *noise(outcomes), ""])


def noise(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line for each benchmark: how long it took and what else kept the machine busy."""
    return [
        f"- {each.benchmark}: {each.seconds:.0f} s, others used {each.others:.2f} cores"
        for each in outcomes
    ]


def as_json(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return everything as one JSON object; a value that was not measured is null."""
    benchmarks = [finite(asdict(outcome)) for outcome in outcomes]
    for entry, outcome in zip(benchmarks, outcomes, strict=True):
        for figure, source in zip(entry["figures"], outcome.figures, strict=True):
            figure["verdict"] = source.verdict
    return (
        json.dumps({"conditions": conditions, "benchmarks": benchmarks}, indent=1, allow_nan=False)
        + "\n"
    )


def _rows(outcome: Outcome) -> list[tuple[str, ...]]:
    if outcome.error:
        return [(outcome.benchmark, "failed", outcome.error, "0", "", "", "over")]
    return [
        (
            outcome.benchmark,
            figure.name,
            figure.conditions,
            str(figure.samples),
            _values(figure.values, figure.unit),
            _values(figure.targets, figure.unit, "≤ "),
            figure.verdict,
        )
        for figure in outcome.figures
    ]


def _values(values: Mapping[str, float], unit: str, sign: str = "") -> str:
    text = ", ".join(f"{name} {sign}{_number(value)}" for name, value in values.items())
    return f"{text} {unit}".strip() if text else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def flat(value: Any) -> str:
    """Return a condition as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def finite(value: Any) -> Any:
    """Return the same with null for each number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
