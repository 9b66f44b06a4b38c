"""How often the registry sent the image and how long the crowd took, as an SVG; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.benchmarks.flash.outcome import Outcome, Round
from tests.benchmarks.flash.plan import ALONE, NO_MIRROR, OFF, SHARING, SPEGEL, Case
from tests.benchmarks.svg import bar, drawing, legend, text

_COLOURS = {
    ALONE: "#9a9a9a",
    NO_MIRROR: "#e0a030",
    OFF: "#8fc7ae",
    SPEGEL: "#00add8",
    SHARING: "#0b6e4f",
}
_LEFT, _PANEL, _BAR, _GAP, _TOP = 8, 300, 14, 30, 72


def svg(conditions: Mapping[str, Any], rounds: Sequence[tuple[Case, Round]]) -> str:
    """Return the drawing: for each crowd a bar of every candidate, in two panels."""
    what = (
        f"spegel-py {conditions['spegel-py']}, {conditions['cores']} cores, "
        f"{str(conditions['time'])[:10]}"
    )
    parts = [
        text(_LEFT, 18, f"A new image, pulled by all nodes at once: {what}"),
        *legend(_LEFT, _COLOURS),
    ]
    panels: tuple[tuple[str, Callable[[Outcome], float]], ...] = (
        ("copies of the image that the registry sent", lambda outcome: outcome.copies),
        ("seconds until every node had it", lambda outcome: outcome.makespan),
    )
    height = _TOP
    for number, (caption, value) in enumerate(panels):
        left = _LEFT + number * (_PANEL + 90)
        most = (
            max((value(each) for _, outcomes in rounds for each in outcomes.values()), default=0.0)
            or 1.0
        )
        parts.append(text(left, _TOP - 12, caption))
        y: float = _TOP
        for case, outcomes in rounds:
            if number == 0:  # it may reach into the other panel
                parts.append(text(left, y + 10, case.name))
            y += 16
            for name, outcome in outcomes.items():
                length = _PANEL * value(outcome) / most
                parts += [
                    bar(left, y, max(1.0, round(length, 1)), _BAR - 3, _COLOURS[name]),
                    text(
                        left + length + 4,
                        y + 10,
                        f"{value(outcome):.2f}" if number == 0 else f"{value(outcome):.1f}",
                    ),
                ]
                y += _BAR
            y += _GAP - _BAR
        height = max(height, int(y))
    return drawing(_LEFT + 2 * (_PANEL + 90), height + 10, parts)
