"""What the panels are drawn as."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from tests.docs.chart import Panel, Series, shown, svg


def test_a_line_is_drawn_over_time_and_has_gaps() -> None:
    """The highest value touches the top. A value that is no number interrupts the line."""
    points = [(0.0, 0.0), (5.0, 10.0), (6.0, math.nan), (10.0, 5.0)]
    drawn = svg("run", [Panel("Pulls", "reqps", [Series("peer", points)])], 10.0)
    ElementTree.fromstring(drawn)
    [line] = re.findall(r'd="([^"]*)" fill="none"', drawn)
    steps = re.findall(r"([ML])([\d.]+) ([\d.]+)", line)
    assert [step[0] for step in steps] == ["M", "L", "M"]
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for _, x, y in steps)
    assert (x1 - x0) * 2 == pytest.approx(x2 - x0)
    assert y0 - y1 == pytest.approx(2 * (y0 - y2)) == 120
    assert "peer" in drawn


def test_what_does_not_fit_into_the_legend_is_counted() -> None:
    """It is drawn all the same, and names that look like markup are text."""
    series = [Series(f"<peer {number}>", [(0.0, 1.0), (1.0, 1.0)]) for number in range(6)]
    drawn = svg("run", [Panel("Peers", "short", series)], 1.0)
    texts = ["".join(each.itertext()) for each in ElementTree.fromstring(drawn).iter()]
    assert "<peer 3>" in texts
    assert "and 2 more" in texts
    assert drawn.count('fill="none"') == 6


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "reqps", "0 /s"),
        (0.0025, "s", "2.5 ms"),
        (3.0, "s", "3 s"),
        (130_000_000.0, "bytes", "130 MB"),
        (1_500.0, "Bps", "1.5 kB/s"),
        (2.0, "short", "2"),
    ],
)
def test_values_are_written_for_people(value: float, unit: str, text: str) -> None:
    """With their unit, in three digits."""
    assert shown(value, unit) == text
