"""The monitor: asks peers' registries whether they live, and carries heartbeats to the health book. Thin I/O.

A check is two tries within its timeout: where one request in twenty is lost, a check fails once in 400, and three in a
row once in 64 million, which is what keeps a healthy peer healthy.
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
"""Seconds between two looks at what is due, at least; for what is urgent there is one at once."""

LATE = 0.5
"""Seconds by which this node's own loop may be late: beyond it, it stood still, and what it missed says nothing."""

SAMPLE, PER_SECOND = 0.5, 250
"""Seconds between two looks at when members were heard from; longer where there are more than so many each second."""

PAUSE = 0.2
"""Seconds between the two tries of a check where the first was refused at once: a process that starts again."""

QUICK = 1.5
"""Seconds that a check takes at most which was called for by a failure: three are over in six seconds, and a black hole
is known within ten from the first request that meets it, whose own deadline comes before."""

ALIVE = 500
"""Statuses below it show that the registry is alive, though it may want credentials, or know no `/livez`."""

LIVEZ = PeerRequest(target="/livez")


class Monitor:
    """Runs the checks that the health's agenda calls for.

    `members` are the peers connected now. The `upstream` is one of its own, with deadlines of at least `timeout`:
    checks must not take the connections of requests.
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
        self._sample_at = 0.0
        self._urgent = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Monitor {len(self._under_way)} checks under way>"

    async def run(self) -> None:
        """Check until cancelled."""
        self._health.agenda.listen(self._urgent.set)
        async with asyncio.TaskGroup() as group:
            while True:
                self._urgent.clear()
                began = self._clock()
                self._look(began)
                for peer in self._health.agenda.due(
                    began, BUDGET - len(self._under_way), self._under_way
                ):
                    self._under_way.add(peer.id)
                    group.create_task(self._check(peer), name=f"check of {peer}")
                pause = min(SAMPLE, max(TICK, self._health.agenda.next_at() - began))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._urgent.wait()
                if (late := self._clock() - began - pause) > LATE:
                    self._health.excuse(late)

    def _look(self, now: float) -> None:
        if now < self._sample_at:
            return
        members = list(self._members())
        self._health.observe(members, now)
        self._sample_at = now + max(SAMPLE, len(members) / PER_SECOND)

    async def _check(self, peer: Peer) -> None:
        began = self._clock()
        timeout = (
            min(self._timeout, QUICK) if self._health.is_pressing(peer, began) else self._timeout
        )
        try:
            failure = await self._ask_twice(peer, timeout)
        except Exception as error:  # noqa: BLE001 - nothing that a peer answers may end the node
            self._faults.log_once("check ended in a fault of this node", error, peer=str(peer))
            failure = f"it cannot be checked: {error!r:.200}"
        finally:
            self._under_way.discard(peer.id)
        now = self._clock()
        if failure is not None and now - began > timeout + LATE:
            self._metrics.checked(CheckOutcome.VOID)
            self._health.agenda.hurry(peer, now)
            return
        self._metrics.checked(CheckOutcome.PASSED if failure is None else CheckOutcome.FAILED)
        self._health.checked(peer, failure, now - began, now)

    async def _ask_twice(self, peer: Peer, timeout: float) -> str | None:
        """Return why the peer does not pass, None if it does; at most `timeout` seconds."""
        end = self._clock() + timeout
        if await self._ask(peer, timeout / 2) is None:
            return None
        await asyncio.sleep(PAUSE)
        return await self._ask(peer, end - self._clock())

    async def _ask(self, peer: Peer, timeout: float) -> str | None:
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
