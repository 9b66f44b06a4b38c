"""What the samples say: one row for each measured value, with a column for each candidate; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.dataplane.plan import (
    MANIFEST_P99,
    OURS,
    PEAK_RSS,
    REFERENCE,
    STREAMS,
    Cell,
    FirstByte,
    Manifests,
    Streams,
)

CPU = "CPU-s/GB"
_REFUSED = "answers other than 200"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement gave, by name of the value; nothing where it failed."""

    round: int
    cell: Cell
    candidate: str
    values: Mapping[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value, of every candidate that was measured.

    `ratio` is ours against Spegel's, NaN without Spegel. `wanted` is the most that is wanted: of
    the ratio if `is_relative`, else of our value.
    """

    name: str
    unit: str
    cell: Cell
    values: Mapping[str, float]
    ratio: float
    wanted: float | None = None
    is_relative: bool = False

    @property
    def verdict(self) -> str:
        """`pass`, `fail`, or nothing where nothing is wanted; what was not measured fails."""
        if self.wanted is None:
            return ""
        judged = self.ratio if self.is_relative else self.values.get(OURS, math.nan)
        return "pass" if judged <= self.wanted else "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A value of a cell that gets a row: what is added to the cell's name, and how rounds become
    one figure.
    """

    value: str
    unit: str
    suffix: str = ""
    wanted: float | None = None
    is_relative: bool = False
    combine: Callable[[Sequence[float]], float] = statistics.median


def rows(samples: Sequence[Sample]) -> list[Row]:
    """Return the rows in the order in which the cells were measured; medians of all rounds, of
    memory the most.

    Left out are refused answers where there were none, and what is wanted against Spegel where it
    is not there.
    """
    found = []
    for cell in dict.fromkeys(sample.cell for sample in samples):
        of_cell = [sample for sample in samples if sample.cell == cell]
        found += [_row(cell, shown, of_cell) for shown in _shown(cell)]
    return [
        row
        for row in found
        if row.unit != _REFUSED or any(value > 0 for value in row.values.values())
    ]


def failures(samples: Sequence[Sample]) -> list[str]:
    """Return a line for each measurement that failed."""
    return [
        f"{named(one.cell)}, {one.candidate}, round {one.round + 1}: {one.error}"
        for one in samples
        if one.error
    ]


def named(cell: Cell) -> str:
    """Return a cell's name as it stands in the table."""
    match cell:
        case Streams(source=source, clients=clients, reading=reading):
            return f"{source}, {clients} {reading} client{'s' if clients > 1 else ''}"
        case Manifests(source=source, is_slow=is_slow):
            return (
                f"manifest beside {STREAMS} {source} blobs{' from a slow disk' if is_slow else ''}"
            )
        case FirstByte(source=source):
            return f"first byte of a {source} blob"


def _shown(cell: Cell) -> Iterator[_Shown]:
    if isinstance(cell, Streams):
        yield _Shown(value="cpu", unit=CPU, wanted=cell.wanted, is_relative=True)
        yield _Shown(value="rate", unit="GB/s")
        if cell.clients == 16:
            yield _Shown(value="peak", unit="MB RSS at most", wanted=PEAK_RSS, combine=max)
        yield _Shown(value="refused", unit=_REFUSED, combine=sum)
        return
    yield _Shown(value="p50", unit="ms", suffix=", p50")
    yield _Shown(
        value="p99",
        unit="ms",
        suffix=", p99",
        wanted=MANIFEST_P99 if isinstance(cell, Manifests) else None,
    )


def _row(cell: Cell, shown: _Shown, samples: Sequence[Sample]) -> Row:
    by: dict[str, list[float]] = {}
    for sample in samples:
        by.setdefault(sample.candidate, []).append(sample.values.get(shown.value, math.nan))
    return Row(
        name=f"{named(cell)}{shown.suffix}",
        unit=shown.unit,
        cell=cell,
        values={name: _known(shown.combine, values) for name, values in by.items()},
        ratio=_ratio(by.get(OURS, []), by.get(REFERENCE, [])),
        wanted=None if shown.is_relative and REFERENCE not in by else shown.wanted,
        is_relative=shown.is_relative,
    )


def _known(combine: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """Combine values; NaN where one is not known, since the others do not stand for it."""
    return math.nan if any(map(math.isnan, values)) else combine(values)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios within each round, so that what else the machine did cancels
    out; NaN of none.
    """
    ratios = [our / their if their else math.nan for our, their in zip(ours, theirs, strict=False)]
    return _known(statistics.median, ratios) if ratios else math.nan
