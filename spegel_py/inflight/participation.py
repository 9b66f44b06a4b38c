"""This node's part in one digest in flight: heartbeats until its runtime has it or gave up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.inflight.messages import Heartbeat, Role
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingest, Store

COMMIT_TIMEOUT = 2.0
"""Seconds within which a complete ingest appears in the store: 11 ms, once 1.1 s was seen."""

COMMIT_POLL = 0.02
"""Seconds between two searches of the store for a complete ingest."""

SendHeartbeat = Callable[[Heartbeat], Awaitable[float]]
"""Sends a heartbeat; returns the seconds within which the coordinator wants the next one."""


class Participation:
    """The role of this node for one digest, which its runtime writes to `ingest`.

    Args:
        digest: the content.
        ingest: the runtime's unfinished file.
        role: leader or follower, as the coordinator assigned it.
        interval: seconds within which the coordinator wants the first heartbeat.
        parent: peer id of a follower's parent.
    """

    def __init__(
        self, *, digest: Digest, ingest: Ingest, role: Role, interval: float, parent: str | None
    ) -> None:
        self.digest = digest
        self._ingest = ingest
        self.role = role
        self.parent = parent
        self.offset = 0
        """Bytes reported to the coordinator last."""
        self.total = ingest.total
        """Bytes of the content, where that is known."""
        self._renew_lease(interval)
        self._is_leaving = False
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Participation in {self.digest}: {self.role.value} {self.parent or ''}>"

    def as_json(self) -> dict[str, object]:
        """Return the participation as it is shown at `/debug/state`."""
        return {
            "digest": str(self.digest),
            "role": self.role.value,
            "parent": self.parent,
            "offset": self.offset,
        }

    def update(self, role: Role, interval: float, parent: str | None) -> bool:
        """Take the role that the coordinator has just assigned; return True if it is a new one."""
        before = (self.role, self.parent)
        self._renew_lease(interval)
        self.role, self.parent = role, parent
        return (role, parent) != before

    def send_now(self) -> None:
        """Send a heartbeat at once: there may be another coordinator."""
        self._wake.set()

    def leave(self) -> None:
        """Stop taking part."""
        self._is_leaving = True
        self._wake.set()

    def lease_left(self, intervals: int) -> float:
        """Return the seconds until the lease ends, which lasts so many heartbeat intervals."""
        return self._renewed + intervals * self._interval - time.monotonic()

    async def run(self, *, send: SendHeartbeat, store: Store) -> Heartbeat:
        """Send heartbeats until the runtime has the content or gave up; return the final one."""
        ingest = self._ingest
        await self._send_while_it_grows(send)
        # an ingest that stopped short is reported at once: followers wait for its bytes
        within = COMMIT_TIMEOUT if ingest.total is None or ingest.is_complete else 0.0
        is_stored = not self._is_leaving and await self._is_stored(store, within)
        return Heartbeat(self.digest, Role.COMPLETE if is_stored else Role.LEFT, self.offset)

    async def _send_while_it_grows(self, send: SendHeartbeat) -> None:
        ingest = self._ingest
        over = asyncio.create_task(ingest.wait_over(), name=f"end of {self.digest}")
        try:
            while True:
                self._wake.clear()
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait(
                    {over, woken}, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED
                )
                woken.cancel()
                if over.done() or self._is_leaving:
                    break
                self.offset = ingest.size
                self._renew_lease(await send(self._heartbeat()))
        finally:
            over.cancel()
            await asyncio.wait({over})
        self.offset = ingest.size

    def _renew_lease(self, interval: float) -> None:
        self._interval, self._renewed = interval, time.monotonic()

    def _heartbeat(self) -> Heartbeat:
        parent = self.parent if self.role is Role.FOLLOWER else None
        return Heartbeat(self.digest, self.role, self.offset, parent)

    async def _is_stored(self, store: Store, within: float) -> bool:
        """Return True if the content is in the store, or appears there within these seconds."""
        end = asyncio.get_running_loop().time() + within
        while True:
            try:
                self.offset = (await store.stat(self.digest)).size
            except ContentNotFound:
                if asyncio.get_running_loop().time() >= end:
                    return False
            except StoreError:
                return False
            else:
                return True
            await asyncio.sleep(COMMIT_POLL)
