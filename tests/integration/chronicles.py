"""What nodes have written down about themselves: their alerts, and what was done about them."""

from __future__ import annotations

from collections.abc import Collection

from spegel_py.supervision.alerts import Alert
from spegel_py.supervision.history import RecordedHistory, read_history
from tests.integration.cluster import finds
from tests.support.lab import Node, until

HEALED = 15.0
"""Seconds after a partition has healed within which everybody finds everything."""


def history(node: Node) -> RecordedHistory:
    return read_history(node.folder / "data")


def alerts(node: Node, condition: str) -> list[Alert]:
    return [alert for alert in history(node).alerts if alert.condition == condition]


def outcomes(node: Node, condition: str) -> list[tuple[str, str]]:
    """Return what was done about the alerts of a condition, in its order."""
    ids = {alert.id for alert in alerts(node, condition)}
    return [
        (str(one["action"]), str(one["outcome"]))
        for one in history(node).repairs
        if one["alert"] in ids
    ]


async def opened(node: Node, condition: str, *, deadline: float) -> Alert:
    """Wait until a node has written down one open alert of a condition."""

    async def is_open() -> bool:
        return [alert.is_open for alert in alerts(node, condition)][-1:] == [True]

    await until(is_open, deadline=deadline, pause=0.1)
    return alerts(node, condition)[-1]


async def closed(node: Node, condition: str, *, deadline: float) -> Alert:
    """Wait until all alerts of a condition are closed, and return the only one there was."""

    async def is_closed() -> bool:
        return [alert.is_open for alert in alerts(node, condition)] == [False]

    await until(is_closed, deadline=deadline, pause=0.1)
    [alert] = alerts(node, condition)
    return alert


async def verified(node: Node, condition: str) -> list[tuple[str, str]]:
    """Wait until it is written down that what was done helped, which comes after the alert's end;
    return all of it.
    """

    async def is_verified() -> bool:
        return outcomes(node, condition)[-1:] == [("verify", "verified")]

    await until(is_verified, deadline=5, pause=0.05)
    return outcomes(node, condition)


async def all_found(nodes: Collection[Node], paths: Collection[str]) -> None:
    """Wait until each of the nodes finds each of the paths; at most HEALED seconds."""

    async def is_found() -> bool:
        return all([await finds(node, path) for node in nodes for path in paths])

    await until(is_found, deadline=HEALED, pause=0.1)
