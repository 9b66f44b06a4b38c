"""The metrics of pre-heating; Spegel has none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from spegel_py.preheat.preheat_job import OVER, JobState, PreheatStage
from spegel_py.telemetry.metrics import show_counts


class PreheatMetrics:
    """The metrics of the pre-heat jobs that this node was asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Gauge(
            "spegel_preheat_jobs",
            "Pre-heat jobs that this node was asked for and remembers, by state.",
            ["state"],
            registry=registry,
        )
        self._nodes = Counter(
            "spegel_preheat_nodes",
            "Images that a pre-heat job or the pre-heat list wanted on a node, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for stage in OVER:
            self._nodes.labels(label_of(stage))

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Read the number of jobs by state at every scrape."""
        show_counts(self._jobs, [state.value for state in JobState], counts)

    def ended(self, stage: PreheatStage) -> None:
        """Count an image that is over on a node."""
        self._nodes.labels(label_of(stage)).inc()


def label_of(stage: PreheatStage) -> str:
    """Return the label `outcome` of an image that is over."""
    return "here" if stage is PreheatStage.HERE else stage.value
