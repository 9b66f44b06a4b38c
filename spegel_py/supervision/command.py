"""`spegel-py alerts`: what a node that runs, or ran, here has written of its alerts and of what was done about them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spegel_py import settings
from spegel_py.errors import ConfigError
from spegel_py.settings import Setting
from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.chronicle import ALERTS, History, recall
from spegel_py.supervision.journal import Record

SHOWN = 20
"""Closed alerts shown without --all, the latest."""

WIDTH = 160
"""Columns of the table where it goes to a file or a pipe: ids are whole there, for grep."""

SETTINGS = (Setting("data_dir", settings.path, None, "the node's data directory"),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `alerts`."""
    settings.add_flags(parser, SETTINGS)
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"show all that are kept, not the last {SHOWN} closed ones",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def run(options: argparse.Namespace) -> int:
    """Print the alerts; returns the exit status. Raises ConfigError naming what is wrong with the folder."""
    history = _history(folder_of(options))
    chosen = history.alerts if options.all else _latest(history.alerts)
    ids = {alert.id for alert in chosen}
    actions = [action for action in history.actions if action.get("alert") in ids]
    if options.json:
        _print_json(chosen, actions, history)
    else:
        _print_table(chosen, actions)
    return 0


def folder_of(options: argparse.Namespace) -> Path | None:
    """Return the data directory that the flags or the environment name, if they do."""
    folder: Path | None = settings.resolve(
        SETTINGS, flags=vars(options), environment=os.environ, file=None
    )["data_dir"]
    return folder


def _history(folder: Path | None) -> History:
    if folder is None:
        raise ConfigError(
            "--data-dir: give the node's; without one a node keeps its alerts in memory, see /debug/state"
        )
    if not folder.is_dir():
        raise ConfigError(f"--data-dir: there is no folder {folder}")
    try:
        return recall(folder)
    except OSError as error:
        raise ConfigError(
            f"--data-dir: {error.filename or folder} cannot be read: {error.strerror}"
        ) from error


def _latest(alerts: Sequence[Alert]) -> list[Alert]:
    closed = [alert for alert in alerts if not alert.is_open]
    return [*closed[-SHOWN:], *(alert for alert in alerts if alert.is_open)]


def _print_json(alerts: Iterable[Alert], actions: Sequence[Record], history: History) -> None:
    shown = {
        "alerts": [alert.as_record() for alert in alerts],
        "actions": list(actions),
        "isolation": [episode.as_record() for episode in history.episodes],
    }
    sys.stdout.write(json.dumps(shown) + "\n")


def _print_table(alerts: Sequence[Alert], actions: Sequence[Record]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if not alerts:
        console.print(f"no alert is recorded ({ALERTS} is not there, or empty)", soft_wrap=True)
        return
    table = Table(box=None)
    for title in ("alert", "tier", "condition", "opened", "seen after", "over after"):
        table.add_column(title, no_wrap=True)
    table.add_column("what was done")
    for alert in alerts:
        done = [
            f"{one.get('action')}: {one.get('outcome')}"
            for one in actions
            if one.get("alert") == alert.id
        ]
        table.add_row(
            alert.id,
            alert.tier.label,
            f"{alert.condition} {alert.subject[-16:]}".strip(),
            datetime.fromtimestamp(alert.opened, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            f"{alert.detection:.1f} s",
            _over(alert),
            ", ".join(done),
        )
    console.print(table)


def _over(alert: Alert) -> str:
    if alert.is_open:
        return "escalated" if alert.escalated else "open"
    return "restarted" if alert.recovery is None else f"{alert.recovery:.1f} s"
