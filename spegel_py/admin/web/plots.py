"""The bars of the plots, as numbers. Pure.

A plot is 100 high, and one wide for each bin. Its labels are text on the page, so that they can be
read on a small screen and by screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spegel_py.admin.web.traffic import TimeBin
from spegel_py.outcomes import ContentSource

HEIGHT = 100.0

GAP = 0.16
"""Gap between two bars, in widths of a bin."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The part of a bar for one source: the number of its bin, its upper edge, and its height."""

    number: int
    source: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Plot:
    """The bars, and the value of the upper edge."""

    bars: tuple[Bar, ...]
    top: float
    count: int

    @property
    def paths(self) -> Mapping[str, str]:
        """The bars of each source as one path, which browsers draw faster than rectangles."""
        paths: dict[str, str] = {}
        for bar in self.bars:
            piece = f"M{bar.number + GAP / 2:g} {bar.y:g}h{1 - GAP:g}v{bar.height:g}h-{1 - GAP:g}z"
            paths[bar.source] = paths.get(bar.source, "") + piece
        return paths


def throughput(bins: Sequence[TimeBin], *, width: float) -> Plot:
    """Return the bytes per second of each bin, local bytes below bytes from peers."""
    rates = [{source: count / width for source, count in one.bytes.items()} for one in bins]
    top = _round_up(max((sum(rate.values()) for rate in rates), default=0.0))
    return Plot(
        _stacked([{name: rate / top for name, rate in each.items()} for each in rates]),
        top,
        len(bins),
    )


def hit_rates(bins: Sequence[TimeBin]) -> Plot:
    """Return the shares of the sources in each bin's requests; nothing for an empty bin."""
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
                height = max(1.0, share * HEIGHT)  # a small share stays visible
                floor -= height
                bars.append(Bar(number, source, round(max(0.0, floor), 2), round(height, 2)))
    return tuple(bars)


def _round_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten, at least 1 kB/s: the scale jumps rarely."""
    if value <= 1000:
        return 1000.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power)
