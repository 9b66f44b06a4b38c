"""Where the page has everything from: what a node's parts say of themselves, asked only while somebody looks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spegel_py.inflight.tree_view import TreeView
from spegel_py.inspection.images import Images
from spegel_py.inspection.measurer import Measurer
from spegel_py.telemetry.pull_log import PullLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """`state` is what `/debug/state` tells, `history` Supervisor.history, `giving` how many transfers go to which
    address now, `sent` how many body bytes this node has sent to anybody, `in_flight` InFlightSharing.views, None where nothing
    is shared so."""

    state: Callable[[], Awaitable[Mapping[str, Any]]]
    history: Callable[[], Mapping[str, Any]]
    giving: Callable[[], Mapping[str, int]]
    sent: Callable[[], int]
    pull_log: PullLog
    images: Images
    measurer: Measurer
    in_flight: Callable[[], Awaitable[Sequence[TreeView]]] | None
