"""What a benchmark gives back: figures with their targets, and the pure functions that make and
judge them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the report: named values in one unit, some with a target that they must not
    exceed.
    """

    name: str
    conditions: str
    unit: str
    values: Mapping[str, float]
    targets: Mapping[str, float] = field(default_factory=dict)
    samples: int = 1

    def __post_init__(self) -> None:
        if unknown := self.targets.keys() - self.values.keys():
            raise ValueError(f"{self.name}: a target for {unknown}, which is not measured")

    @property
    def is_over(self) -> bool:
        """Say whether any target is missed; a value that is not a number misses it."""
        return any(not self.values[name] <= target for name, target in self.targets.items())

    @property
    def verdict(self) -> str:
        """`ok`, `over`, or nothing where there is no target."""
        if not self.targets:
            return ""
        return "over" if self.is_over else "ok"


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` (0 to 1) of the samples do not exceed; NaN
    of none.
    """
    if not samples:
        return math.nan
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and max in milliseconds."""
    found = {f"p{share}": percentile(seconds, share / 100) * 1000 for share in (50, 95, 99)}
    return found | {"max": max(seconds, default=math.nan) * 1000}


def median_and_max(samples: Sequence[float]) -> dict[str, float]:
    """Return the median and the largest; NaN of none."""
    if not samples:
        return {"median": math.nan, "max": math.nan}
    return {"median": statistics.median(samples), "max": max(samples)}
