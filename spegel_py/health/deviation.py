"""How far figures are from their mean, as floats: `statistics` is exact, and takes 20 times as long. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection


def mean_and_deviation(figures: Collection[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation, both 0 of none."""
    if not figures:
        return 0.0, 0.0
    mean = sum(figures) / len(figures)
    return mean, math.sqrt(sum((figure - mean) ** 2 for figure in figures) / len(figures))
