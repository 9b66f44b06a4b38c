"""What a whole node weighs in crowds of several sizes, as an SVG. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.benchmarks.scale.whole_nodes import OURS, SPEGEL, Weight
from tests.benchmarks.svg import bar, drawing, legend, text

_COLOURS = {OURS: "#0b6e4f", SPEGEL: "#00add8"}
_LEFT, _PANEL, _BAR, _GAP, _TOP = 8, 200, 14, 30, 72


def svg(conditions: Mapping[str, Any], found: Sequence[Weight]) -> str:
    """Return the drawing: for each number of nodes a bar of every candidate, in three panels."""
    what = (
        f"spegel-py {conditions['spegel-py']}, {conditions['cores']} cores, "
        f"{str(conditions['time'])[:10]}"
    )
    parts = [
        text(_LEFT, 18, f"A node in crowds of several sizes: {what}"),
        *legend(_LEFT, _COLOURS),
    ]
    panels: tuple[tuple[str, Callable[[Weight], float]], ...] = (
        ("memory at rest (RSS), MB", lambda weight: weight.rss),
        ("CPU at rest, % of a core", lambda weight: weight.idle),
        ("CPU until all have met, s", lambda weight: weight.cpu),
    )
    height = _TOP
    for number, (caption, value) in enumerate(panels):
        left = _LEFT + number * (_PANEL + 90)
        most = max(map(value, found), default=0.0) or 1.0
        parts.append(text(left, _TOP - 12, caption))
        y = _TOP
        for nodes in sorted({weight.nodes for weight in found}):
            parts.append(text(left, y + 10, f"{nodes} nodes"))
            y += 16
            for weight in found:
                if weight.nodes == nodes:
                    length = max(1.0, _PANEL * value(weight) / most)
                    parts += [
                        bar(left, y, length, _BAR - 3, _COLOURS[weight.candidate]),
                        text(left + length + 4, y + 10, f"{value(weight):.3g}"),
                    ]
                    y += _BAR
            y += _GAP - _BAR
        height = max(height, y)
    return drawing(_LEFT + 3 * (_PANEL + 90), height + 10, parts)
