"""Reports of chaos, crowd and drill: a Markdown page with a table, and JSON. Pure."""

from __future__ import annotations

import json
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

from tests.benchmarks.report import aligned, finite, flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(ABC):
    """The outcome of one row; each program adds its measurements and the bounds on them."""

    row: str
    error: str = ""
    """Why the row could not be played to its end."""

    @property
    def label(self) -> str:
        """Return the name that the row has in the progress on stderr."""
        return self.row

    @property
    def missed(self) -> list[str]:
        """Return the bounds that were missed, as text."""
        return [*([self.error] if self.error else []), *self.missed_bounds()]

    @property
    def verdict(self) -> str:
        """Return the verdict for the table."""
        return f"MISSED: {'; '.join(self.missed)}" if self.missed else self.passed

    @property
    def passed(self) -> str:
        """Return the verdict for the table if no bound was missed."""
        return "ok"

    @abstractmethod
    def missed_bounds(self) -> list[str]:
        """Return the bounds of the program that were missed, as text."""


T = TypeVar("T")

Columns = Sequence[tuple[str, Callable[[T], str]]]
"""The columns of a table: each has a head, and a function that returns the cell of an entry."""


def table(columns: Columns[T], entries: Iterable[T]) -> str:
    """Return a Markdown table with one line for each entry."""
    head = tuple(name for name, _ in columns)
    return aligned([head, *(tuple(cell(entry) for _, cell in columns) for entry in entries)])


def decimal(number: float | None, missing: str = "") -> str:
    """Return a cell with one decimal place; None and NaN are shown as `missing`."""
    return missing if number is None or math.isnan(number) else f"{number:.1f}"


def median(values: Collection[float]) -> float | None:
    """Return the median; None if there are no values."""
    return statistics.median(values) if values else None


def page(title: str, conditions: Mapping[str, Any], body: str, *lists: Iterable[str]) -> str:
    """Return a page: the conditions, the body, and below it lists without repetitions."""
    lines = [f"- {name}: {flat(value)}" for name, value in conditions.items()]
    below = [line for each in lists for line in [*(f"- {one}" for one in sorted(set(each))), ""]]
    return "\n".join([f"# {title}", "", *lines, "", body, "", *below])


def as_json(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return everything as one JSON object; a value that was not measured is null."""
    rows = [finite(asdict(outcome)) | {"missed": outcome.missed} for outcome in outcomes]
    everything = {"conditions": finite(dict(conditions)), "rows": rows}
    return json.dumps(everything, indent=1, allow_nan=False, default=_plain) + "\n"


def _plain(value: object) -> Any:
    assert isinstance(value, Enum)
    return value.value
