"""The history of one node: alerts, repairs and episodes of isolation, a journal for each.

The journals are below the data directory. Without one the history is kept in memory only. The
thread that writes the journals also checks the disks.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from spegel_py.supervision.alerts import Alert, latest_states
from spegel_py.supervision.conditions import DATA_DIR_READ_ONLY, DISK_FULL, Condition
from spegel_py.supervision.isolation import KEPT, Episode
from spegel_py.supervision.journal import Journal, Record, read
from spegel_py.supervision.repairs import RepairRecord

ALERTS, AUDIT, EPISODES = "alerts.jsonl", "audit.jsonl", "isolation.jsonl"

RECENT = 200
"""Repairs kept in memory, and alerts."""

LITTLE, LITTLE_SHARE = 64 * 1024 * 1024, 0.01
"""Free bytes, and free share, of a file system that counts as full: both must be smaller."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class RecordedHistory:
    """The records of earlier lives of a node, the oldest first."""

    alerts: list[Alert]
    episodes: list[Episode]
    repairs: list[Record]


def read_history(folder: Path | None) -> RecordedHistory:
    """Read the journals in the folder; nothing without a folder. Raises OSError."""
    if folder is None or not folder.exists():
        return RecordedHistory([], [], [])
    return RecordedHistory(
        alerts=list(latest_states(read(folder, ALERTS)).values()),
        episodes=_episodes(read(folder, EPISODES))[-KEPT:],
        repairs=list(read(folder, AUDIT)),
    )


@dataclass(frozen=True, slots=True)
class DiskFault:
    """A fault of the disk below a folder."""

    condition: Condition
    folder: Path
    detail: str


class History:
    """The journals of one node, and the latest of their records.

    `still_open` returns the open alerts, with which a new file begins.
    """

    def __init__(self, *, folder: Path | None, still_open: Callable[[], Iterable[Alert]]) -> None:
        self._folder = folder
        self._alerts = Journal(
            folder=folder,
            name=ALERTS,
            carried=lambda: [alert.as_record() for alert in still_open()],
        )
        self._audit = Journal(folder=folder, name=AUDIT)
        self._isolation = Journal(folder=folder, name=EPISODES)
        self.episodes: deque[Episode] = deque(maxlen=KEPT)
        self.repairs: deque[RepairRecord] = deque(maxlen=RECENT)
        self.alerts: dict[str, Alert] = {}
        """The latest alerts by their ids, each in its last state."""

    def __repr__(self) -> str:
        return f"<History {self._folder}>"

    def add_alert(self, alert: Alert) -> None:
        """Record the new state of an alert."""
        self.remember([alert])
        self._alerts.append(alert.as_record())

    def remember(self, alerts: Iterable[Alert]) -> None:
        """Keep in memory alerts that are written already, or will be written."""
        for alert in alerts:
            self.alerts.pop(alert.id, None)
            self.alerts[alert.id] = alert
        for old in list(self.alerts)[:-RECENT]:
            del self.alerts[old]

    def add_repair(self, record: RepairRecord) -> None:
        """Record an automatic action."""
        self.repairs.append(record)
        self._audit.append(record.as_record())

    def add_action(self, record: Record) -> None:
        """Record an action that a person or another program asked for."""
        self._audit.append(record)

    def add_episode(self, episode: Episode) -> None:
        """Record the new state of an episode."""
        if self.episodes and _is_same(self.episodes[-1], episode):
            episode = replace(episode, began=self.episodes.pop().began)
        self.episodes.append(episode)
        self._isolation.append(episode.as_record())

    def flush(self, folders: Collection[Path]) -> list[DiskFault]:
        """Write all waiting records, and return the faults of the disks; it may block.

        Repairs are written first. So if an alert is on disk as closed, its repairs are there too,
        even if the node dies in between.
        """
        faults: dict[tuple[str, Path], DiskFault] = {}
        for journal in (self._audit, self._alerts, self._isolation):
            journal.flush()
            if self._folder is not None and journal.trouble is not None:
                fault = fault_of(journal.trouble, self._folder)
                faults[fault.condition.name, fault.folder] = fault
        for folder in folders:
            if fault_here := check_disk(folder, is_written=folder == self._folder):
                faults.setdefault((fault_here.condition.name, folder), fault_here)
        return list(faults.values())


def check_disk(folder: Path, *, is_written: bool) -> DiskFault | None:
    """Return the fault of a folder's file system, if there is one; it may block.

    A folder that is missing has no fault. Only a folder that this node writes must not be
    read-only: a container's view of containerd's content is.
    """
    try:
        figures = os.statvfs(folder)
    except OSError:
        return None
    if is_written and figures.f_flag & os.ST_RDONLY:
        return DiskFault(DATA_DIR_READ_ONLY, folder, "the file system is read-only")
    free, total = figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize
    if free < LITTLE and free < LITTLE_SHARE * total:
        return DiskFault(DISK_FULL, folder, f"{free} of {total} bytes are free")
    return None


def fault_of(error: OSError, folder: Path) -> DiskFault:
    """Return the fault that a failed write shows."""
    condition = DISK_FULL if error.errno in _FULL else DATA_DIR_READ_ONLY
    return DiskFault(condition, folder, error.strerror or str(error))


def _is_same(old: Episode, new: Episode) -> bool:
    return old.ended is None and abs(old.began - new.began) < 1.0


def _episodes(records: Iterable[Record]) -> list[Episode]:
    episodes: list[Episode] = []
    for record in records:
        with suppress(ValueError, TypeError, KeyError):
            episode = Episode.from_record(record)
            if episodes and episodes[-1].began == episode.began:
                episodes.pop()
            episodes.append(episode)
    return episodes
