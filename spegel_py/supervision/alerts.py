"""The alerts of a node: one for each condition and subject, closed once the condition stays away.

Pure. A condition that flaps keeps its alert open longer and longer: each return doubles the time
for which it must stay away, up to ten minutes. So it writes a few lines an hour, not a few a
second.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from spegel_py.supervision.conditions import Observation, Tier

HOLD, MAX_HOLD = 2.0, 600.0
"""Seconds for which a condition must stay away before its alert is closed: at first, and at most
if it flaps."""

REMEMBERED_FOR = 600.0
"""Seconds for which the flapping of a closed alert is remembered."""

MAX_OPEN = 256
"""Open alerts at most: a node with more has one cause, which is among them."""

_ID = re.compile(r"ALERT-(\d{8})-(\d{3,})")
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert.

    `opened` and `closed` are Unix time. `detection` is the time in seconds from the beginning of
    the condition to the alert. `recovery` is the time in seconds from the alert to the end of the
    condition; it is None while the condition lasts, and if a restart of the node closed the alert.
    `escalated` is True if all repairs failed.
    """

    id: str
    tier: Tier
    condition: str
    subject: str
    source: str
    detail: str
    opened: float
    detection: float
    closed: float | None = None
    recovery: float | None = None
    escalated: bool = False
    flaps: int = 0

    @property
    def is_open(self) -> bool:
        return self.closed is None

    def as_record(self) -> dict[str, object]:
        return {
            "id": self.id,
            "tier": self.tier.label,
            "condition": self.condition,
            "subject": self.subject,
            "source": self.source,
            "detail": self.detail,
            "opened": round(self.opened, 3),
            "detection_seconds": round(self.detection, 3),
            "closed": None if self.closed is None else round(self.closed, 3),
            "recovery_seconds": None if self.recovery is None else round(self.recovery, 3),
            "escalated": self.escalated,
            "flaps": self.flaps,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Alert:
        """Read a record of `as_record`. Raises ValueError, TypeError or KeyError for others."""
        return cls(
            id=str(record["id"]),
            tier=Tier.of(record["tier"]),
            condition=str(record["condition"]),
            subject=str(record["subject"]),
            source=str(record["source"]),
            detail=str(record["detail"]),
            opened=float(str(record["opened"])),
            detection=float(str(record["detection_seconds"])),
            closed=_seconds(record["closed"]),
            recovery=_seconds(record["recovery_seconds"]),
            escalated=record["escalated"] is True,
            flaps=int(str(record["flaps"])),
        )


def _seconds(value: object) -> float | None:
    return None if value is None else float(str(value))


def latest_states(records: Iterable[Mapping[str, object]]) -> dict[str, Alert]:
    """Return the last state of each alert by its id, from records in the order of writing.

    Records that are no alerts are skipped.
    """
    alerts: dict[str, Alert] = {}
    for record in records:
        try:
            alert = Alert.from_record(record)
        except (ValueError, TypeError, KeyError):
            continue
        alerts.pop(alert.id, None)
        alerts[alert.id] = alert
    return alerts


@dataclass(slots=True)
class _Entry:
    alert: Alert
    opened: float
    hold: float
    gone: float | None = None


class AlertBook:
    """The alerts of one node."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._entries: dict[_Key, _Entry] = {}
        # For each condition that flapped: until when that is remembered, and its hold in seconds.
        self._flapped: dict[_Key, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<AlertBook {len(self._entries)} open>"

    def recall(self, history: Iterable[Alert]) -> None:
        """Continue the numbering of the alerts of earlier lives of the node."""
        for alert in history:
            if match := _ID.fullmatch(alert.id):
                self._numbers[match[1]] = max(self._numbers.get(match[1], 0), int(match[2]))

    def open(self) -> list[Alert]:
        """Return the open alerts, the oldest first."""
        return [entry.alert for entry in list(self._entries.values())]

    def persists(self, alert: Alert) -> bool:
        """Return True if the alert's condition was present at the last call of `observe`."""
        entry = self._entries.get((alert.condition, alert.subject))
        return entry is not None and entry.gone is None

    def observe(
        self, observations: Iterable[Observation], *, now: float, wall: float
    ) -> list[Alert]:
        """Record all conditions that are present; return the alerts that were opened or closed.

        `now` is monotonic, `wall` Unix time.
        """
        present = {(one.condition.name, one.subject): one for one in observations}
        opened = [
            self._opened(key, one, now, wall)
            for key, one in present.items()
            if self._is_new(key, one, now)
        ]
        closed = []
        for key, entry in list(self._entries.items()):
            self._update(entry, is_present=key in present, now=now)
            if entry.gone is not None and now - entry.gone >= entry.hold:
                closed.append(self._closed(key, entry, now, wall))
        return opened + closed

    def escalate(self, alert: Alert) -> Alert:
        """Mark an open alert: all automatic repairs failed."""
        entry = self._entries[alert.condition, alert.subject]
        entry.alert = replace(entry.alert, escalated=True)
        return entry.alert

    def _is_new(self, key: _Key, one: Observation, now: float) -> bool:
        is_due = now - one.since >= one.condition.patience
        return key not in self._entries and is_due and len(self._entries) < MAX_OPEN

    def _opened(self, key: _Key, one: Observation, now: float, wall: float) -> Alert:
        alert = Alert(
            id=self._next_id(wall),
            tier=one.condition.tier,
            condition=one.condition.name,
            subject=one.subject,
            source=one.source,
            detail=one.detail,
            opened=wall,
            detection=max(0.0, now - one.since),
        )
        until, hold = self._flapped.get(key, (now, HOLD))
        self._entries[key] = _Entry(alert, now, hold if until > now else HOLD)
        return alert

    def _update(self, entry: _Entry, *, is_present: bool, now: float) -> None:
        # Case 1: the condition is gone, now or before. Case 2: it is back, so the alert flaps.
        if not is_present:
            entry.gone = now if entry.gone is None else entry.gone
        elif entry.gone is not None:
            entry.gone, entry.hold = None, min(entry.hold * 2, MAX_HOLD)
            entry.alert = replace(entry.alert, flaps=entry.alert.flaps + 1)

    def _closed(self, key: _Key, entry: _Entry, now: float, wall: float) -> Alert:
        del self._entries[key]
        self._flapped = {
            each: (until, hold) for each, (until, hold) in self._flapped.items() if until > now
        }
        if len(self._flapped) < MAX_OPEN:
            self._flapped[key] = (now + REMEMBERED_FOR, min(entry.hold * 2, MAX_HOLD))
        return replace(
            entry.alert, closed=wall, recovery=max(0.0, (entry.gone or now) - entry.opened)
        )

    def _next_id(self, wall: float) -> str:
        day = time.strftime("%Y%m%d", time.gmtime(wall))
        self._numbers[day] = number = self._numbers.get(day, 0) + 1
        return f"ALERT-{day}-{number:03}"
