"""Following containerd through its outages: each period in which it answers is a session.

Events are lost while the daemon restarts, so every session begins with a new list.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.store.base import ContentEvent, Inventory
from spegel_py.store.containerd.containerd_store import ContainerdStore
from spegel_py.store.containerd.follow_session import FollowSession
from spegel_py.store.watching import Emit, InventoryDiff, watch_in_task
from spegel_py.tools.backoff import Backoff
from spegel_py.tools.cancellation import raise_if_cancelled
from spegel_py.wording import nothing_shared

log = structlog.get_logger(__name__)

RETRY_FIRST, RETRY_LAST = 0.1, 2.0
"""Seconds between attempts to reach a daemon that is away: the first pause, doubled up to the last.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentAccess:
    """How a node reads containerd's content.

    Args:
        given: the content path of the settings; None for the socket.
        path: the folder in use; None for the socket.
        reason: why `path` is not the given one; empty if it is.
        away: monotonic time at which the daemon went away; None while it is followed.
        error: the daemon's last failure while it is away.
        has_followed: True once the daemon's images were listed.
    """

    socket: Path
    namespace: str
    given: Path | None
    path: Path | None
    reason: str
    away: float | None
    error: str
    has_followed: bool


class ContainerdWatcher:
    """The Watcher port over a ContainerdStore: its tags, and the images' content that is here.

    Keys are digests and names of the form `registry/repository:tag`. Images named by a digest have
    no tag, but their content counts. Tags that `filters` exclude are left out. So is content if all
    its origins are excluded.
    """

    def __init__(self, *, store: ContainerdStore, filters: Filters = EVERYTHING) -> None:
        self._store = store
        self._filters = filters
        self._away: float | None = None
        self._has_followed = False
        self._error = ""
        self._retry = asyncio.Event()
        self._is_back = asyncio.Event()
        self._session: FollowSession | None = None

    def __repr__(self) -> str:
        return f"<ContainerdWatcher {self._store!r}>"

    def watch(self) -> AsyncIterator[Inventory | ContentEvent]:
        return watch_in_task(self._run)

    def away(self) -> float | None:
        """Return the monotonic time at which the daemon went away; None while it is followed."""
        return self._away

    def why_not_sharing(self) -> str | None:
        """Return why no content of this node can be shared now, None if it can.

        Files can be served while the daemon is away, once their records were listed.
        """
        if self._has_followed and (self._away is None or self._store.folder.path is not None):
            return None
        return nothing_shared(self._error or "containerd's images are not listed yet")

    def describe(self) -> ContentAccess:
        """Return how this node reads containerd's content now."""
        client, folder = self._store.client, self._store.folder
        return ContentAccess(
            socket=client.socket,
            namespace=client.namespace,
            given=folder.given,
            path=folder.path,
            reason=folder.choice.reason,
            away=self._away,
            error=self._error if self._away is not None else "",
            has_followed=self._has_followed,
        )

    def images_by_digest(self) -> list[str]:
        """Return the names `registry/repository@digest` of the announced images."""
        session = self._session
        return [] if session is None else session.images_by_digest()

    async def reconnect(self) -> None:
        """Try the daemon now, and return when it is followed again."""
        self._retry.set()
        if self._away is not None:
            await self._is_back.wait()

    async def _run(self, emit: Emit) -> None:
        backoff = Backoff(first=RETRY_FIRST, most=RETRY_LAST)
        while True:
            self._session = session = FollowSession(
                self._store,
                InventoryDiff(emit),
                self._filters,
                is_return=self._away is not None,
                on_listed=self._mark_followed,
            )
            try:
                await session.run()
            except* StoreUnavailable as group:
                if session.has_listed:
                    backoff.reset()
                self._error = _first_error(group)
                if self._away is None:
                    log.warning(
                        "containerd is away",
                        socket=str(self._store.client.socket),
                        error=self._error,
                    )
                    self._away = time.monotonic()
                    self._is_back.clear()
            raise_if_cancelled()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next()):
                    await self._retry.wait()
            self._retry.clear()

    def _mark_followed(self) -> None:
        self._away, self._error, self._has_followed = None, "", True
        self._is_back.set()


def _first_error(group: BaseExceptionGroup[StoreUnavailable]) -> str:
    return str(group.exceptions[0])
