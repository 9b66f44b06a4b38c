"""The objects that the status page reads; the page itself is loaded once somebody looks at it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spegel_py.admin.images import LocalImages
from spegel_py.admin.measurer import Measurer
from spegel_py.inflight.tree_view import TreeView
from spegel_py.telemetry.pull_log import PullLog


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSources:
    """The functions and objects that the page reads, only while somebody looks at it.

    Args:
        state: returns the JSON of `/debug/state`.
        history: Supervisor.history.
        giving: returns the number of transfers to each address now.
        sent: returns the number of body bytes that this node has sent to anybody.
        in_flight: InFlightSharing.views; None if in-flight sharing is off.
        replicas: returns the JSON of `/debug/replicas`.
        jobs: returns the pre-heat jobs as JSON.
    """

    state: Callable[[], Awaitable[Mapping[str, Any]]]
    history: Callable[[], Mapping[str, Any]]
    giving: Callable[[], Mapping[str, int]]
    sent: Callable[[], int]
    pull_log: PullLog
    images: LocalImages
    measurer: Measurer
    in_flight: Callable[[], Awaitable[Sequence[TreeView]]] | None
    replicas: Callable[[], Mapping[str, Any]]
    jobs: Callable[[], Sequence[Mapping[str, Any]]]
