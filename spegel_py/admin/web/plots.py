"""Bars for the plots, as numbers: what is drawn where. Pure.

A plot is 100 high and one wide for each bin; what stands beside it is text on the page, so that it can be read on a
small screen, and by who does not see the plot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spegel_py.admin.web.traffic import TimeBin
from spegel_py.outcomes import ContentSource

HEIGHT = 100.0

GAP = 0.16
"""Between two bars, of the width of a bin."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar's part for a source: the number of its bin, its upper edge and its height."""

    number: int
    source: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Bars, and the value that the upper edge stands for."""

    bars: tuple[Bar, ...]
    top: float
    count: int

    @property
    def paths(self) -> Mapping[str, str]:
        """All bars of a source as one path, which a browser draws far sooner than as many rectangles."""
        paths: dict[str, str] = {}
        for bar in self.bars:
            piece = f"M{bar.number + GAP / 2:g} {bar.y:g}h{1 - GAP:g}v{bar.height:g}h-{1 - GAP:g}z"
            paths[bar.source] = paths.get(bar.source, "") + piece
        return paths


def throughput(bins: Sequence[TimeBin], *, width: float) -> Plot:
    """Return bytes a second in each bin, those from here below those from peers."""
    rates = [{source: count / width for source, count in one.bytes.items()} for one in bins]
    top = _round_up(max((sum(rate.values()) for rate in rates), default=0.0))
    return Plot(
        _stacked([{name: rate / top for name, rate in each.items()} for each in rates]),
        top,
        len(bins),
    )


def hit_rates(bins: Sequence[TimeBin]) -> Plot:
    """Return by which sources the requests of each bin were answered, as shares; nothing where there were none."""
    totals = [max(1, sum(one.requests.values())) for one in bins]
    shares = [
        {source: one.requests[source] / total for source in ContentSource}
        for one, total in zip(bins, totals, strict=True)
    ]
    return Plot(_stacked(shares), 1.0, len(bins))


def _stacked(shares: Sequence[Mapping[ContentSource, float]]) -> tuple[Bar, ...]:
    bars = []
    for number, parts in enumerate(shares):
        floor = HEIGHT
        for source, share in parts.items():
            if share > 0:
                height = max(1.0, share * HEIGHT)  # what is there is seen
                floor -= height
                bars.append(Bar(number, source, round(max(0.0, floor), 2), round(height, 2)))
    return tuple(bars)


def _round_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten, 1 kB/s at least: the scale then jumps seldom."""
    if value <= 1000:
        return 1000.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power)
