"""One node's part in one flight: it says what it does with the digest, again and again, until its runtime has it or
gave up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from spegel_py.errors import ContentNotFound, StoreError
from spegel_py.flight.messages import Note, Role
from spegel_py.oci.digest import Digest
from spegel_py.store.base import Ingest, Store

COMMITTED = 2.0
"""Seconds within which what a runtime has written whole is found in its store: 11 ms, once 1.1 s was seen."""

LOOK = 0.02
"""Seconds between two looks for it."""

Tell = Callable[[Note], Awaitable[float]]
"""Tells the stewards, and returns within how many seconds they want to hear again."""


class Part:
    """What this node does with a digest, which its runtime writes to `ingest`; `parent` is of one that follows. The
    steward knows it, since that said so, and wants to hear of it within `renew` seconds."""

    def __init__(
        self, *, digest: Digest, ingest: Ingest, role: Role, renew: float, parent: str | None
    ) -> None:
        self.digest = digest
        self._ingest = ingest
        self.role = role
        self.parent = parent
        self.offset = 0
        self.total = ingest.total
        """Bytes of the content, where that is known."""
        self._hear(renew)
        self._is_leaving = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Part in {self.digest}: {self.role.value} {self.parent or ''}>"

    def as_json(self) -> dict[str, object]:
        """Return the part as it is shown at `/debug/state`; `offset` is what the stewards were told last."""
        return {
            "digest": str(self.digest),
            "role": self.role.value,
            "parent": self.parent,
            "offset": self.offset,
        }

    def change(self, role: Role, renew: float, parent: str | None) -> bool:
        """Do this from now on, as the steward has just said; say whether it is something else."""
        before = (self.role, self.parent)
        self._hear(renew)
        self.role, self.parent = role, parent
        return (role, parent) != before

    def hurry(self) -> None:
        """Tell at once: there may be another steward."""
        self._changed.set()

    def leave(self) -> None:
        """Take part no more."""
        self._is_leaving = True
        self._changed.set()

    def lease(self, leases: int) -> float:
        """Return for how many seconds the steward believes what it was told last, so many intervals in all."""
        return self._heard + leases * self._renew - time.monotonic()

    async def play(self, *, tell: Tell, store: Store) -> Note:
        """Tell until the runtime has the content, or gave up; returns what the stewards are to be told last."""
        ingest = self._ingest
        await self._tell_while_it_grows(tell)
        # one that is known to have stopped short is told of at once: others wait for its bytes
        within = COMMITTED if ingest.total is None or ingest.is_complete else 0.0
        is_here = not self._is_leaving and await self._is_here(store, within)
        return Note(self.digest, Role.HOLD if is_here else Role.GONE, self.offset)

    async def _tell_while_it_grows(self, tell: Tell) -> None:
        ingest = self._ingest
        over = asyncio.create_task(ingest.wait_over(), name=f"end of {self.digest}")
        try:
            while True:
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait(
                    {over, changed}, timeout=self._renew, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
                if over.done() or self._is_leaving:
                    break
                self.offset = ingest.size
                self._hear(await tell(self._note()))
        finally:
            over.cancel()
            await asyncio.wait({over})
        self.offset = ingest.size

    def _hear(self, renew: float) -> None:
        self._renew, self._heard = renew, time.monotonic()

    def _note(self) -> Note:
        return Note(
            self.digest, self.role, self.offset, self.parent if self.role is Role.FOLLOW else None
        )

    async def _is_here(self, store: Store, within: float) -> bool:
        """Say whether the content is in the store, or comes there within so many seconds."""
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
            await asyncio.sleep(LOOK)
