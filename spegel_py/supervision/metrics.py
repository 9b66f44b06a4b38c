"""The metrics of supervision: alerts, repairs, isolation, the lag of the event loop."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.conditions import Tier
from spegel_py.supervision.repairs import RepairRecord

_DETECTION = (0.5, 1, 2, 5, 10, 30, 60, 300)
_RECOVERY = (1, 5, 10, 30, 60, 300, 1800)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


class SupervisionMetrics:
    """The metrics of supervision, in the registry of the node."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._open = Gauge("spegel_alerts_open", "Alerts open now.", ["tier"], registry=registry)
        self._detection = Histogram(
            "spegel_alert_detection_seconds",
            "Time from the beginning of a condition to its alert.",
            ["tier"],
            buckets=_DETECTION,
            registry=registry,
        )
        self._recovery = Histogram(
            "spegel_alert_recovery_seconds",
            "Time from an alert to the moment its condition was gone.",
            ["tier"],
            buckets=_RECOVERY,
            registry=registry,
        )
        self._actions = Counter(
            "spegel_repairs",
            "Automatic actions, by action and outcome.",
            ["action", "outcome"],
            registry=registry,
        )
        self._isolated = Gauge(
            "spegel_isolated",
            "1 while no peer is connected though some ought to be.",
            registry=registry,
        )
        self._without_peer = Gauge(
            "spegel_isolation_seconds",
            "Time since a peer was connected; 0 while one is.",
            registry=registry,
        )
        self._known = Gauge(
            "spegel_known_peers",
            "Peers known lately: connected, or gone without a goodbye.",
            registry=registry,
        )
        self._lag = Histogram(
            "spegel_event_loop_lag_seconds",
            "Time of one round of the event loop, measured twice a second.",
            buckets=_LAG,
            registry=registry,
        )
        for tier in Tier:
            self._open.labels(tier.label).set(0)

    def open(self, alerts: Iterable[Alert]) -> None:
        """Show the open alerts."""
        tiers = [alert.tier for alert in alerts]
        for tier in Tier:
            self._open.labels(tier.label).set(tiers.count(tier))

    def opened(self, alert: Alert) -> None:
        """Count a new alert."""
        self._detection.labels(alert.tier.label).observe(alert.detection)

    def closed(self, alert: Alert) -> None:
        """Count an alert that was closed."""
        if alert.recovery is not None:
            self._recovery.labels(alert.tier.label).observe(alert.recovery)

    def repaired(self, record: RepairRecord) -> None:
        """Count an automatic action."""
        self._actions.labels(record.action, record.outcome).inc()

    def peers(self, *, is_cut_off: bool, seconds: float, known: int) -> None:
        """Show the isolation of the node; `seconds` is the time without a peer."""
        self._isolated.set(is_cut_off)
        self._without_peer.set(seconds)
        self._known.set(known)

    def lagged(self, seconds: float) -> None:
        """Count one round of the event loop."""
        self._lag.observe(seconds)
