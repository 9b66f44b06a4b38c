"""`spegel-py alerts`: what is or was wrong with a node, and which repairs it tried.

With a data directory the alerts are read from its files, closed ones included; also if no node
runs. Without one, a running node is asked for its open alerts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spegel_py import settings, values
from spegel_py.commands.config_file_flag import other_settings
from spegel_py.commands.output import (
    add_output_flags,
    moment,
    print_json,
    print_line,
    print_table,
    short_id,
)
from spegel_py.commands.running_node import RunningNode, add_address_flags
from spegel_py.errors import ConfigError
from spegel_py.settings import Setting
from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.history import ALERTS, RecordedHistory, read_history

SHOWN = 20
"""Closed alerts shown without --all, the latest."""

SETTINGS = (Setting("data_dir", values.path, None, "the node's data directory"),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `alerts`."""
    parser.epilog = (
        "With --data-dir the alerts that are kept there, closed ones too; otherwise a "
        "running node's open alerts."
    )
    settings.add_flags(parser, SETTINGS)
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"show all that are kept, not the last {SHOWN} closed ones",
    )
    add_output_flags(parser)
    add_address_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Print the alerts; returns the exit status. Raises ConfigError and NodeError."""
    values = settings.resolve(
        SETTINGS,
        flags=vars(options),
        environment=os.environ,
        file=options.config,
        others=other_settings(),
    )
    if options.node is None and values["data_dir"]:
        _print_kept(_history(values["data_dir"]), options)
    else:
        _print_open(RunningNode.of(options), options)
    return 0


def _print_kept(history: RecordedHistory, options: argparse.Namespace) -> None:
    alerts = history.alerts if options.all else _latest(history.alerts)
    ids = {alert.id for alert in alerts}
    actions = [action for action in history.repairs if action.get("alert") in ids]
    if options.json:
        print_json(
            {
                "alerts": [alert.as_record() for alert in alerts],
                "actions": actions,
                "isolation": [episode.as_record() for episode in history.episodes],
            }
        )
    elif not alerts:
        print_line(f"no alert is recorded ({ALERTS} is not there, or empty)")
    else:
        print_table(
            ("alert", "tier", "opened", "seen after", "over after"),
            [
                (
                    alert.id,
                    alert.tier.label,
                    datetime.fromtimestamp(alert.opened, UTC).strftime("%Y-%m-%d %H:%M:%S"),
                    f"{alert.detection:.1f} s",
                    _over(alert),
                )
                for alert in alerts
            ],
            notes=[
                _note(alert.id, alert.condition, alert.subject, actions, wide=options.wide)
                for alert in alerts
            ],
        )


def _print_open(node: RunningNode, options: argparse.Namespace) -> None:
    supervision = node.ask("/debug/state")["supervision"]
    alerts, actions = supervision["alerts"], supervision["actions"]
    if options.json:
        print_json({"alerts": alerts, "actions": actions})
    elif not alerts:
        print_line(
            f"{node.url} has no open alert; "
            "--data-dir shows closed ones too, where the node has one"
        )
    else:
        print_table(
            ("alert", "tier", "opened", "seen after", "state"),
            [
                (
                    alert["id"],
                    alert["tier"],
                    moment(alert["opened"])[:-4],
                    f"{alert['detection_seconds']:.1f} s",
                    "escalated" if alert["escalated"] else "open",
                )
                for alert in alerts
            ],
            notes=[
                _note(
                    alert["id"],
                    alert["condition"],
                    alert["subject"],
                    actions,
                    detail=alert["detail"],
                    wide=options.wide,
                )
                for alert in alerts
            ],
        )


def _history(folder: Path) -> RecordedHistory:
    if not folder.is_dir():
        raise ConfigError(f"--data-dir: there is no folder {folder}")
    try:
        return read_history(folder)
    except OSError as error:
        raise ConfigError(
            f"--data-dir: {error.filename or folder} cannot be read: {error.strerror}"
        ) from error


def _latest(alerts: Sequence[Alert]) -> list[Alert]:
    closed = [alert for alert in alerts if not alert.is_open]
    return [*closed[-SHOWN:], *(alert for alert in alerts if alert.is_open)]


def _note(
    alert: str,
    condition: str,
    subject: str,
    actions: Iterable[Mapping[str, Any]],
    *,
    detail: str = "",
    wide: bool,
) -> str:
    """Return the line below an alert: its condition, and the repairs that were tried."""
    name = f"{condition} {short_id(subject, wide=wide)}".strip()
    done = _done(alert, actions)
    return "".join((name, f": {detail}" if detail else "", f"; {done}" if done else ""))


def _done(alert: str, actions: Iterable[Mapping[str, Any]]) -> str:
    """Return the repairs that were tried for an alert, with their outcomes."""
    return ", ".join(
        f"{one.get('action')}: {one.get('outcome')}" for one in actions if one.get("alert") == alert
    )


def _over(alert: Alert) -> str:
    if alert.is_open:
        return "escalated" if alert.escalated else "open"
    return "restarted" if alert.recovery is None else f"{alert.recovery:.1f} s"
