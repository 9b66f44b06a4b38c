"""What is wrong with a running node now, and what it did about that of late: `spegel-py alerts` without its folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from spegel_py.inspection.node import Node
from spegel_py.inspection.page import moment, print_json, print_line, print_table

Record = Mapping[str, Any]


def run(options: argparse.Namespace) -> int:
    """Print the open alerts; returns the exit status. Raises NodeError."""
    node = Node.of(options)
    supervision = node.ask("/debug/state")["supervision"]
    alerts, actions = supervision["alerts"], supervision["actions"]
    if options.json:
        print_json({"alerts": alerts, "actions": actions})
    elif not alerts:
        print_line(
            f"{node.url} has no open alert; --data-dir shows closed ones too, where the node has one"
        )
    else:
        print_table(
            ("alert", "tier", "condition", "opened", "seen after", "state", "what was done"),
            [_row(alert, actions) for alert in alerts],
            wraps="what was done",
        )
    return 0


def _row(alert: Record, actions: Sequence[Record]) -> tuple[str, ...]:
    done = [f"{one['action']}: {one['outcome']}" for one in actions if one["alert"] == alert["id"]]
    return (
        alert["id"],
        alert["tier"],
        f"{alert['condition']} {alert['subject'][-16:]}".strip(),
        moment(alert["opened"]),
        f"{alert['detection_seconds']:.1f} s",
        "escalated" if alert["escalated"] else "open",
        ", ".join(done),
    )
