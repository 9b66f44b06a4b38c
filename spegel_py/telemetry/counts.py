"""Gauges that ask at every scrape how many there are of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import Gauge


def show(gauge: Gauge, kinds: Iterable[str], counts: Callable[[], Mapping[str, int]]) -> None:
    """Have a gauge with one label show the count of each kind, 0 of one that is not among them.

    `counts` must neither block nor raise.
    """
    for kind in kinds:
        gauge.labels(kind).set_function(partial(_count, counts, kind))


def _count(counts: Callable[[], Mapping[str, int]], kind: str) -> float:
    return float(counts().get(kind, 0))
