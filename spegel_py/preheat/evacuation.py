"""Gives this node's only copies away while it drains, and before it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from spegel_py.errors import RequestInvalid, StoreUnavailable
from spegel_py.preheat.preheat_job import PreheatJob
from spegel_py.preheat.preheat_jobs import PreheatJobs
from spegel_py.preheat.preheat_request import TIMEOUT
from spegel_py.replicas.action_record import ACTOR
from spegel_py.replicas.drain_state import DrainCause
from spegel_py.replicas.draining import Draining
from spegel_py.telemetry.logging import FaultLog
from spegel_py.tools.backoff import Backoff
from spegel_py.values import written_duration

log = structlog.get_logger(__name__)

TICK = 1.0
"""Seconds between two looks whether this node drains."""

AGAIN_FIRST, AGAIN_MOST = 30.0, 600.0
"""Seconds between two searches for only copies while it drains. Pulls may bring further ones."""

STOP_WITHIN = 20.0
"""Seconds that an evacuation before the end of the process may take. The rest of the end takes up
to 14 s more."""

SHORTEST_KEEP = 60.0
LONGEST_KEEP = 10 * 365 * 86400.0
"""Seconds for which other nodes keep the images, at least and at most."""


class Evacuation:
    """Begins evacuation jobs: at a person's request, and while this node drains.

    Args:
        keep: seconds for which other nodes keep the images; None for ever.
        is_at_stop: True to evacuate before the process ends.
    """

    def __init__(
        self,
        *,
        jobs: PreheatJobs,
        draining: Draining,
        keep: float | None,
        is_at_stop: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._draining = draining
        self._keep = min(LONGEST_KEEP, max(SHORTEST_KEEP, keep or LONGEST_KEEP))
        self._is_at_stop = is_at_stop
        self._monotonic = monotonic
        self._due = 0.0
        self._pauses = Backoff(first=AGAIN_FIRST, most=AGAIN_MOST)
        self._faults = FaultLog(log)

    def __repr__(self) -> str:
        return f"<Evacuation {self._draining!r}>"

    def describe(self) -> Mapping[str, str] | None:
        """Return the causes for which this node drains; None if it does not."""
        return self._draining.state.describe()

    async def begin(self, given: object, *, actor: str) -> PreheatJob:
        """Let this node drain, and begin the job that gives its only copies away.

        Raises RequestInvalid, StoreUnavailable.
        """
        await self._draining.find_peers()
        job = await self._jobs.evacuate(given, actor=actor)
        self._due = self._monotonic() + AGAIN_FIRST
        await self._draining.begin(DrainCause.COMMAND, f"by {actor}", actor=actor)
        return job

    async def undo(self, *, actor: str) -> None:
        """End the drain that a person began. Images that are with other nodes stay there."""
        await self._draining.end(DrainCause.COMMAND, actor=actor)

    async def run(self) -> None:
        """Give only copies away while this node drains, until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            if not self._draining.state.is_draining:
                self._due = 0.0
                self._pauses.reset()
            elif self._monotonic() >= self._due:
                self._due = self._monotonic() + self._pauses.next()
                await self._evacuate(TIMEOUT)

    async def stop(self) -> None:
        """Before the end of the process, give away the only copies if that is wanted."""
        if not self._is_at_stop:
            return
        began = self._monotonic()
        await self._draining.begin(DrainCause.STOP, "it stops")
        await self._evacuate(STOP_WITHIN)
        is_over = await self._jobs.evacuated(STOP_WITHIN)
        seconds = round(self._monotonic() - began, 1)
        log.info("evacuation before the end", is_over=is_over, seconds=seconds)

    async def _evacuate(self, timeout: float) -> None:
        """Begin a job if there are only copies, and none is under way for them."""
        if self._jobs.is_evacuating():
            return
        given = {"keep": written_duration(self._keep), "timeout": written_duration(timeout)}
        try:
            await self._draining.find_peers()
            await self._jobs.evacuate(given, actor=ACTOR, is_forced=False)
        except (RequestInvalid, StoreUnavailable) as error:
            log.info("nothing is evacuated", error=str(error))
        except Exception as error:  # noqa: BLE001 - a fault here must not end the node
            self._faults.log_once("nothing is evacuated", error)
