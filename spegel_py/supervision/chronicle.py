"""What supervision writes down below the data directory: alerts, actions and episodes of isolation, a journal each.

Without a data directory all of it lives in memory, as long as the node does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from spegel_py.supervision import disk
from spegel_py.supervision.alerts import Alert, fold
from spegel_py.supervision.audit import Action
from spegel_py.supervision.disk import Fault
from spegel_py.supervision.isolation import KEPT, Episode
from spegel_py.supervision.journal import Journal, Record, read

ALERTS, AUDIT, EPISODES = "alerts.jsonl", "audit.jsonl", "isolation.jsonl"
RECENT = 200
"""Actions kept in memory, and alerts."""


@dataclass(frozen=True, slots=True)
class History:
    """What earlier lives of a node wrote, oldest first."""

    alerts: list[Alert]
    episodes: list[Episode]
    actions: list[Record]


def recall(folder: Path | None) -> History:
    """Read what is there; nothing without a folder. Raises OSError where it cannot be read."""
    if folder is None or not folder.exists():
        return History([], [], [])
    return History(
        alerts=list(fold(read(folder, ALERTS)).values()),
        episodes=_episodes(read(folder, EPISODES))[-KEPT:],
        actions=list(read(folder, AUDIT)),
    )


class Chronicle:
    """The journals of one node. `still_open` gives the alerts that a fresh file begins with."""

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
        self.actions: deque[Action] = deque(maxlen=RECENT)
        self.alerts: dict[str, Alert] = {}
        """The latest alerts by their ids, as they were written last."""

    def __repr__(self) -> str:
        return f"<Chronicle {self._folder}>"

    def alert(self, alert: Alert) -> None:
        """Write an alert's new state."""
        self.remember([alert])
        self._alerts.append(alert.as_record())

    def remember(self, alerts: Iterable[Alert]) -> None:
        """Keep alerts in memory that are written already, or about to be."""
        for alert in alerts:
            self.alerts.pop(alert.id, None)
            self.alerts[alert.id] = alert
        for old in list(self.alerts)[:-RECENT]:
            del self.alerts[old]

    def action(self, action: Action) -> None:
        """Write what was done."""
        self.actions.append(action)
        self._audit.append(action.as_record())

    def episode(self, episode: Episode) -> None:
        """Write an episode's new state."""
        if self.episodes and _is_same(self.episodes[-1], episode):
            episode = replace(episode, began=self.episodes.pop().began)
        self.episodes.append(episode)
        self._isolation.append(episode.as_record())

    def flush(self, folders: Collection[Path]) -> list[Fault]:
        """Write what waits, and return what is wrong with the disks; it may block.

        Actions go first: of an alert that is known to be over, what was done about it is known then, whatever ends the
        node in between.
        """
        faults: dict[tuple[str, Path], Fault] = {}
        for journal in (self._audit, self._alerts, self._isolation):
            journal.flush()
            if self._folder is not None and journal.trouble is not None:
                fault = disk.judge(journal.trouble, self._folder)
                faults[fault.condition.name, fault.folder] = fault
        for folder in folders:
            if fault_here := disk.look(folder, is_written=folder == self._folder):
                faults.setdefault((fault_here.condition.name, folder), fault_here)
        return list(faults.values())


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
