"""A drawing (SVG) of the times until each fault was seen and over, on a logarithmic scale. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.svg import bar, drawing, text
from tests.faults.drill.report import DrillOutcome, slowest

_SEEN, _OVER, _LIMIT = "#00add8", "#0b6e4f", "#c0392b"
_LEFT, _DECADE, _LINE, _TOP = 190, 130, 44, 64
_LEAST, _MOST = 0.1, 1000.0


def svg(conditions: Mapping[str, Any], outcomes: Sequence[DrillOutcome]) -> str:
    """Return the drawing: for each fault the slowest node's two times, with marks at the limits."""
    shown = [outcome for outcome in outcomes if outcome.sightings]
    width, height = _LEFT + _x(_MOST) + 60, _TOP + _LINE * len(shown) + 20
    version, day = conditions["spegel-py"], str(conditions["time"])[:10]
    subtitle = f"spegel-py {version}, {conditions['cores']} cores, {day}"
    parts = [
        text(8, 18, f"Fault drill, seconds (slowest of 6 nodes): {subtitle}"),
        *_legend(),
        *_axis(height),
    ]
    for number, outcome in enumerate(shown):
        parts += _row(outcome, _TOP + number * _LINE)
    return drawing(width, height, parts)


def _legend() -> list[str]:
    parts = []
    for number, (colour, name) in enumerate(
        ((_SEEN, "until seen"), (_OVER, "until over"), (_LIMIT, "objective"))
    ):
        parts += [bar(8 + 100 * number, 28, 11, 11, colour), text(24 + 100 * number, 38, name)]
    return parts


def _axis(height: float) -> list[str]:
    parts = []
    for power in range(-1, 4):
        x = _LEFT + _x(10.0**power)
        parts += [
            f'<path d="M{x:.1f} {_TOP - 6}V{height - 16:.1f}" stroke="#ddd"/>',
            text(x - 6, _TOP - 10, f"{10.0**power:g}"),
        ]
    return parts


def _row(outcome: DrillOutcome, y: float) -> list[str]:
    seen = slowest([each.seen for each in outcome.sightings])
    over = slowest([each.over for each in outcome.sightings])
    parts = [text(8, y + 16, outcome.row)]
    parts += _bar(seen, min(each.seen_limit for each in outcome.sightings), y, _SEEN)
    parts += _bar(over, min(each.over_limit for each in outcome.sightings), y + 14, _OVER)
    return parts


def _bar(seconds: float | None, limit: float, y: float, colour: str) -> list[str]:
    length = 0.0 if seconds is None else _x(seconds)
    label = "never" if seconds is None else f"{seconds:.1f}"
    mark = bar(_LEFT + _x(limit), y, 2, 12, _LIMIT)
    return [bar(_LEFT, y, length, 12, colour), mark, text(_LEFT + length + 4, y + 10, label)]


def _x(seconds: float) -> float:
    return _DECADE * math.log10(min(max(seconds, _LEAST), _MOST) / _LEAST)
