"""Whether this node drains, and which other nodes do. Pure.

A node that *drains* is about to go away. It is a source of content as before, but no copy: no node
counts its replicas, or asks it to keep an image. A peer whose failure is predicted is treated alike
by the nodes that predict it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from enum import StrEnum

BRAKE_SHARE = 0.20
"""Share of the nodes that may drain at the same time by themselves. If more are about to fail, the
cause is common to all, and moving images from one to the next helps none."""


class DrainCause(StrEnum):
    """Why a node drains."""

    COMMAND = "command"
    STOP = "stop"
    DISK = "disk"
    SICK = "sick"
    CORDONED = "cordoned"


class DrainState:
    """The causes for which this node drains, and the peers that do not count.

    The parts of a node share it. It is read in any thread, and changed on the event loop.
    """

    def __init__(self) -> None:
        self.causes: Mapping[DrainCause, str] = {}
        """The causes, each with a sentence; none while the node does not drain."""
        self.draining_peers: frozenset[str] = frozenset()
        """Ids of the peers that say that they drain."""
        self.failing_peers: frozenset[str] = frozenset()
        """Ids of the peers whose failure this node predicts."""
        self.changed = asyncio.Event()
        """Set when any of it changed; the part that waits clears it."""

    def __repr__(self) -> str:
        return f"<DrainState {sorted(self.causes)} of peers {len(self.leaving_peers)}>"

    @property
    def is_draining(self) -> bool:
        """Return True if this node drains."""
        return bool(self.causes)

    @property
    def leaving_peers(self) -> frozenset[str]:
        """Ids of the peers whose replicas do not count."""
        return self.draining_peers | self.failing_peers

    def describe(self) -> Mapping[str, str] | None:
        """Return the causes as `/debug/state` serves them; None if the node does not drain."""
        return {cause.value: why for cause, why in self.causes.items()} or None


def failing(
    before: Collection[str], *, predicted: Collection[str], unhealthy: Collection[str]
) -> frozenset[str]:
    """Return the peers that do not count because their failure is predicted, or has come.

    Args:
        before: the result of the last call.
        predicted: the peers about to fail.
        unhealthy: the peers that fail their checks. One that was predicted before stays left out.
    """
    return frozenset(predicted) | (frozenset(before) & frozenset(unhealthy))


def is_braked(draining: int, nodes: int) -> bool:
    """Return True if so many of the other nodes drain that this one does not begin by itself."""
    return draining >= max(1.0, BRAKE_SHARE * nodes)
