"""Panels of the dashboard as an SVG: lines over time, each with its legend; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.svg import bar, drawing, text

Point = tuple[float, float]
"""Seconds since the beginning, and a value."""

_COLOURS = ("#00add8", "#0b6e4f", "#c0392b", "#e08e0b", "#6c3483", "#566573", "#1f618d", "#7d6608")
_WIDTH, _HEIGHT, _GAP, _LEFT, _TOP, _LINE = 380, 120, 24, 58, 30, 14
_COLUMNS = 3
_LINES = 4
"""Lines of a legend; what is beyond is drawn, and counted."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line, with what the legend calls it; it may have gaps, where a point is not a number."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot; `unit` is Grafana's name of the unit."""

    title: str
    unit: str
    series: Sequence[Series]


def svg(title: str, panels: Sequence[Panel], seconds: float) -> str:
    """Return all panels, each over the same time."""
    height = _TOP + _HEIGHT + 16 + _LINES * _LINE + _GAP
    rows = math.ceil(len(panels) / _COLUMNS)
    parts = [text(8, 18, title)]
    for number, panel in enumerate(panels):
        x, y = 8 + (number % _COLUMNS) * (_WIDTH + _GAP), 28 + (number // _COLUMNS) * height
        parts += _panel(panel, x, y, seconds)
    return drawing(8 + _COLUMNS * (_WIDTH + _GAP), 28 + rows * height, parts)


def _panel(panel: Panel, x: float, y: float, seconds: float) -> list[str]:
    most = max(
        (value for series in panel.series for _, value in series.points if math.isfinite(value)),
        default=0.0,
    )
    top = most or 1.0
    left, upper, width = x + _LEFT, y + _TOP, _WIDTH - _LEFT
    parts = [f'<g font-weight="bold">{text(x, y + 16, panel.title)}</g>']
    for share in (0.0, 0.5, 1.0):
        level = upper + _HEIGHT * (1 - share)
        parts.append(f'<path d="M{left:.1f} {level:.1f}h{width:.1f}" stroke="#ddd"/>')
        parts.append(text(x, level + 4, shown(top * share, panel.unit)))
    for number, series in enumerate(panel.series):
        colour = _COLOURS[number % len(_COLOURS)]
        lines = _lines(series.points, left, upper, width / seconds, _HEIGHT / top)
        parts.append(f'<path d="{lines}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    return parts + _legend(panel.series, left, upper + _HEIGHT + 16)


def _lines(
    points: Sequence[Point], left: float, upper: float, per_second: float, per_unit: float
) -> str:
    steps, is_drawn = [], False
    for at, value in points:
        if not math.isfinite(value):
            is_drawn = False
            continue
        x, y = left + at * per_second, upper + _HEIGHT - value * per_unit
        steps.append(f"{'L' if is_drawn else 'M'}{x:.1f} {y:.1f}")
        is_drawn = True
    return "".join(steps)


def _legend(every: Sequence[Series], x: float, y: float) -> list[str]:
    parts = []
    for number, series in enumerate(every[:_LINES]):
        parts += [bar(x, y + number * _LINE - 8, 8, 8, _COLOURS[number % len(_COLOURS)])]
        parts.append(text(x + 14, y + number * _LINE, series.name))
    if len(every) > _LINES:
        parts.append(text(x + 200, y, f"and {len(every) - _LINES} more"))
    return parts


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as short as it can be read."""
    if unit == "s":
        return f"{value * 1000:.3g} ms" if 0 < value < 1 else f"{value:.3g} s"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}{_SYMBOLS.get(unit, '')}".strip()
    return f"{value:.3g} {_SYMBOLS.get(unit, '')}".strip()


_SYMBOLS = {"bytes": "B", "Bps": "B/s", "reqps": "/s", "ops": "/s"}
