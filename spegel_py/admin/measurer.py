"""The measurements of a node: one at a time, which several people may watch.

`measured_pull` has the measurement itself. It is loaded with the first one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog

from spegel_py.admin.measurement import Measurement
from spegel_py.errors import NameInvalid, Occupied
from spegel_py.oci.reference import Reference
from spegel_py.tools.addresses import MirrorAddress

log = structlog.get_logger(__name__)


class Measurer:
    """Runs one measurement at a time, which several people may watch.

    `mirror` is this node's own registry. Use `running()`
    around its life: it ends a measurement in the background. `latest` is the measurement that is
    under way, else the last one; None before the first.
    """

    def __init__(self, *, mirror: str | MirrorAddress) -> None:
        self._mirror = mirror
        self._is_busy = False
        self._task: asyncio.Task[None] | None = None
        self.latest: Measurement | None = None

    def __repr__(self) -> str:
        state = "at work on" if self._is_busy else "after"
        return f"<Measurer {state} {self.latest and self.latest.reference}>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Measurer]:
        """Allow measurements while the block lasts."""
        try:
            yield self
        finally:
            await self.stop()

    async def follow(self, text: str) -> AsyncGenerator[Measurement, None]:
        """Measure an image, and yield the measurement repeatedly; closing ends it.

        Before the start it raises Occupied if a measurement is under way, and NameInvalid and
        DigestInvalid.
        """
        reference = self._admit(text)
        try:
            from spegel_py.admin.measured_pull import measure

            async with aclosing(measure(reference, mirror=self._mirror)) as steps:
                async for measurement in steps:
                    self.latest = measurement
                    yield measurement
        finally:
            self._end()

    def start(self, text: str) -> None:
        """Measure an image in the background; `latest` shows it. Raises as `follow` does."""
        reference = self._admit(text)
        self._task = asyncio.create_task(self._run(reference), name="measuring")
        self._task.add_done_callback(lambda _: self._end())

    async def stop(self) -> None:
        """End the measurement in the background, if there is one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _admit(self, text: str) -> Reference:
        try:
            reference = Reference.parse(text.strip())
        except NameInvalid as error:
            raise NameInvalid(
                f"{error.message}; write it as in registry.example/app:1, or with @sha256:…"
            ) from error
        if self._is_busy:
            name = self.latest.reference if self.latest else "another image"
            raise Occupied(
                f"{name} is being measured, and one is at a time: try again when that is over"
            )
        self._is_busy = True
        return reference

    async def _run(self, reference: Reference) -> None:
        try:
            from spegel_py.admin.measured_pull import measure

            async with aclosing(measure(reference, mirror=self._mirror)) as steps:
                async for measurement in steps:
                    self.latest = measurement
        except Exception as error:  # noqa: BLE001 - nobody waits for this task
            log.error("measuring failed", reference=str(reference), error=repr(error))

    def _end(self) -> None:
        self._is_busy = False
        if self.latest is not None:
            log.info("image measured", **_summary(self.latest))


def _summary(one: Measurement) -> dict[str, object]:
    moved = one.bytes
    return {
        "reference": one.reference,
        "seconds": round(one.seconds, 3),
        "local": moved["local"],
        "peer": moved["peer"],
        "missing": one.missing,
        "error": one.error,
    }
