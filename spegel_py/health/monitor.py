"""Sends health checks to peers' registries, and reports heartbeats to `Health`.

A check is two tries within its timeout. Where one request in twenty is lost, a check fails once in
400, and three in a row fail once in 64 million: so packet loss alone makes no peer unhealthy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import structlog

from spegel_py.errors import PeerError, PeerRefused
from spegel_py.health.check_scheduler import BUDGET
from spegel_py.health.health import Health
from spegel_py.health.metrics import CheckOutcome, HealthMetrics
from spegel_py.routing.base import Member, Peer
from spegel_py.telemetry.logging import FaultLog
from spegel_py.transfer.base import PeerRequest, Upstream

log = structlog.get_logger(__name__)

TICK = 0.25
"""Least seconds between two passes over the due checks; an urgent check starts a pass at once."""

LATE = 0.5
"""Seconds by which the event loop may be late. Beyond that this node stood still, and the silence
of peers in that time is ignored."""

SAMPLE, PER_SECOND = 0.5, 250
"""Seconds between two reads of the members' heartbeats, and the members read in a second at most: a
large cluster is read less often."""

REVIEW = 5.0
"""Seconds between two reads of members that send no heartbeats: `wake` tells when one changed."""

PAUSE = 0.2
"""Seconds between the two tries of a check, if the first was refused at once: the process may be
restarting."""

QUICK = 1.5
"""Longest seconds of a check that follows a failure. Three such checks are over in six seconds, so
a black hole is known within ten seconds of the first request: that has its own, earlier
deadline."""

ALIVE = 500
"""HTTP status below which a registry is alive, though it may want credentials or lack `/livez`."""

LIVEZ = PeerRequest(target="/livez")


class Monitor:
    """Runs the checks that the scheduler of `health` asks for.

    Args:
        upstream: an HTTP client of its own, with deadlines of at least `timeout` seconds: checks
            must not take the connections of requests.
        members: returns the peers connected now.
    """

    def __init__(
        self,
        *,
        health: Health,
        upstream: Upstream,
        members: Callable[[], Iterable[Member]],
        metrics: HealthMetrics,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._health = health
        self._upstream = upstream
        self._members = members
        self._metrics = metrics
        self._timeout = timeout
        self._clock = clock
        self._under_way: set[str] = set()
        self._faults = FaultLog(log)
        self._sample_at = self._least_sample_at = 0.0
        self._urgent = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Monitor {len(self._under_way)} checks under way>"

    def wake(self) -> None:
        """Read the members soon, since they have changed."""
        self._sample_at = min(self._sample_at, self._least_sample_at)
        self._urgent.set()

    async def run(self) -> None:
        """Check until cancelled."""
        self._health.scheduler.set_wake(self._urgent.set)
        async with asyncio.TaskGroup() as group:
            while True:
                self._urgent.clear()
                began = self._clock()
                self._observe(began)
                for peer in self._health.scheduler.due(
                    began, BUDGET - len(self._under_way), self._under_way
                ):
                    self._under_way.add(peer.id)
                    group.create_task(self._check(peer), name=f"check of {peer}")
                due = min(self._health.scheduler.next_at(), self._sample_at)
                pause = max(TICK, due - began)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._urgent.wait()
                if (late := self._clock() - began - pause) > LATE:
                    self._health.excuse(late)

    def _observe(self, now: float) -> None:
        if now < self._sample_at:
            return
        members = list(self._members())
        self._health.observe(members, now)
        self._least_sample_at = now + max(SAMPLE, len(members) / PER_SECOND)
        has_heartbeats = any(member.interval is not None for member in members)
        self._sample_at = self._least_sample_at if has_heartbeats else now + REVIEW

    async def _check(self, peer: Peer) -> None:
        began = self._clock()
        timeout = (
            min(self._timeout, QUICK)
            if self._health.needs_quick_check(peer, began)
            else self._timeout
        )
        try:
            failure = await self._try_twice(peer, timeout)
        except Exception as error:  # noqa: BLE001 - no response of a peer may end the node
            self._faults.log_once("check ended in a fault of this node", error, peer=str(peer))
            failure = f"it cannot be checked: {error!r:.200}"
        finally:
            self._under_way.discard(peer.id)
        now = self._clock()
        if failure is not None and now - began > timeout + LATE:
            self._metrics.checked(CheckOutcome.VOID)
            self._health.scheduler.check_soon(peer, now)
            return
        self._metrics.checked(CheckOutcome.PASSED if failure is None else CheckOutcome.FAILED)
        self._health.checked(peer, failure, now - began, now)

    async def _try_twice(self, peer: Peer, timeout: float) -> str | None:
        """Return why the peer fails the check, None if it passes, within `timeout` seconds."""
        end = self._clock() + timeout
        if await self._try(peer, timeout / 2) is None:
            return None
        await asyncio.sleep(PAUSE)
        return await self._try(peer, end - self._clock())

    async def _try(self, peer: Peer, timeout: float) -> str | None:
        try:
            async with asyncio.timeout(timeout), self._upstream.open(peer, LIVEZ) as response:
                await response.read()
        except PeerRefused as error:
            return None if error.status < ALIVE else str(error)
        except PeerError as error:
            return str(error)
        except TimeoutError:
            return f"it did not answer within {timeout:.1f} s"
        return None
