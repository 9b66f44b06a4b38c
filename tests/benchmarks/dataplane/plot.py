"""The CPU that a byte costs, as an SVG: bars of every candidate, grouped by clients; pure, and
drawn by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.dataplane.plan import SOURCES, Source, Streams
from tests.benchmarks.dataplane.summary import CPU, Row
from tests.benchmarks.svg import bar, drawing, text

_COLOURS = ("#0b6e4f", "#00add8", "#7f7fd5", "#9a9a9a", "#e0a030", "#8fc7ae")
_BAR, _GAP, _HEIGHT, _LEFT, _TOP = 16, 22, 200, 56, 74
_LABEL = 80
"""What the label below a group takes, however few bars stand above it."""


def svg(names: Sequence[str], rows: Sequence[Row], caption: str) -> str:
    """Return the drawing: a panel of groups for local blobs, and one for relayed ones."""
    groups = {source: _groups(rows, source) for source in SOURCES}
    width = _LEFT + (_bar_width(names) * len(names) + _GAP) * max(map(len, groups.values())) + 10
    panel = _HEIGHT + 84
    parts = [_legend(names)]
    for number, (source, bars) in enumerate(groups.items()):
        parts += _panel(
            f"{source} blobs: CPU seconds per GB", names, bars, _TOP + number * panel, width
        )
    height = _TOP + panel * len(groups)
    return drawing(width, height, [text(8, 18, caption), *parts])


def caption(conditions: Mapping[str, Any]) -> str:
    """Return the line above the drawing: what, where and when, and how quiet it was there."""
    what = (
        f"spegel-py {conditions['spegel-py']}, {conditions['cores']} cores, kernel "
        f"{conditions['kernel']}"
    )
    return f"{what}, {str(conditions['time'])[:10]}; {conditions['run']}"


def _groups(rows: Sequence[Row], source: Source) -> dict[str, Mapping[str, float]]:
    return {
        f"{row.cell.clients} × {row.cell.reading}": {
            name: value for name, value in row.values.items() if math.isfinite(value)
        }
        for row in rows
        if isinstance(row.cell, Streams) and row.cell.source == source and row.unit == CPU
    }


def _legend(names: Sequence[str]) -> str:
    parts = []
    for number, name in enumerate(names):
        parts += [
            bar(8 + 90 * number, 30, 11, 11, _COLOURS[number]),
            text(24 + 90 * number, 40, name),
        ]
    return "\n".join(parts)


def _bar_width(names: Sequence[str]) -> float:
    return max(_BAR, _LABEL / max(1, len(names)))


def _panel(
    title: str,
    names: Sequence[str],
    groups: Mapping[str, Mapping[str, float]],
    top: float,
    width: float,
) -> list[str]:
    most = max((value for values in groups.values() for value in values.values()), default=1.0)
    parts = [text(8, top - 10, title)]
    for share in (0.0, 0.5, 1.0):
        y = top + _HEIGHT * (1 - share)
        parts += [
            f'<path d="M{_LEFT} {y:.1f}H{width - 10}" stroke="#ddd"/>',
            text(8, y + 4, f"{most * share:.3f}"),
        ]
    thick = _bar_width(names)
    for number, (label, values) in enumerate(groups.items()):
        left = _LEFT + number * (thick * len(names) + _GAP) + _GAP / 2
        parts.append(text(left, top + _HEIGHT + 16, label))
        for place, name in enumerate(names):
            height = _HEIGHT * values.get(name, 0.0) / most
            parts.append(
                bar(
                    left + place * thick, top + _HEIGHT - height, thick - 2, height, _COLOURS[place]
                )
            )
    return parts
