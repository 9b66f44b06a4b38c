"""How rows are shown: a page with one table, and JSON; pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.dataplane.plan import OURS, REFERENCE
from tests.benchmarks.dataplane.summary import Row, Sample, named
from tests.benchmarks.report import aligned, finite, flat


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the table, which is Markdown and lines up in a terminal too."""
    head = ["measured", "unit", *names, f"{OURS} / {REFERENCE}", "wanted", "verdict"]
    return aligned([head, *(_line(names, row) for row in rows)])


def markdown(conditions: Mapping[str, Any], names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return the page: under which conditions, and the table."""
    lines = [f"- {name}: {flat(value)}" for name, value in conditions.items()]
    return "\n".join(["# Data plane", "", *lines, "", table(names, rows), ""])


def as_json(conditions: Mapping[str, Any], rows: Sequence[Row], samples: Sequence[Sample]) -> str:
    """Return everything, every sample included, as one JSON object; a value that is not known is
    null.
    """
    everything = {
        "conditions": conditions,
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
        "samples": [asdict(sample) | {"name": named(sample.cell)} for sample in samples],
    }
    return json.dumps(finite(everything), indent=1, allow_nan=False) + "\n"


def _line(names: Sequence[str], row: Row) -> list[str]:
    values = [_number(row.values.get(name, math.nan)) for name in names]
    wanted = "" if row.wanted is None else f"≤ {row.wanted:g}{'×' if row.is_relative else ''}"
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.2f}×"
    return [row.name, row.unit, *values, ratio, wanted, row.verdict]


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}" if value < 1 else f"{value:.2f}"
