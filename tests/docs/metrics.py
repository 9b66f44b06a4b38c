"""Write the page of all metrics, from the program's collectors: `python -m tests.docs.metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from spegel_py.metrics import NodeMetrics
from spegel_py.supervision.metrics import SupervisionMetrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

_HEAD = """\
# Metrics

<!-- Made by `make docs` from the program's own metrics: change the help text there. -->

`GET /metrics` at `--metrics-addr` answers in Prometheus' text format, or in OpenMetrics format if
the request asks for it. Names that Spegel also has mean the same here.
[From Spegel](../guides/migration.md#differences) lists the exceptions. The chart has a
[dashboard and alert rules](../guides/kubernetes.md#monitoring) that use these metrics.

Up to 64 peers have their own value of the label `peer`. A peer that has gone loses its value.
A counter is exported with the suffix `_total`, a histogram with `_bucket`, `_count` and `_sum`, and
a summary with `_count` and `_sum`.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def render() -> str:
    """Return the page."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in sorted(_rows()))


def _rows() -> Iterator[tuple[str, str, str, str]]:
    metrics = NodeMetrics()
    SupervisionMetrics(registry=metrics.registry)
    for collector in list(metrics.registry._collector_to_names):
        labels = collector._labelnames if isinstance(collector, MetricWrapperBase) else ()
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            shown = ", ".join(f"`{label}`" for label in labels)
            yield f"`{name}`", family.type, shown, family.documentation


if __name__ == "__main__":
    PAGE.write_text(render())
