"""Decides whether this node drains, tells the other nodes, and hears which of them drain.

A node that drains advertises one key more, so its peers know it as they know its content: also
after their restarts, and in clusters where a node is connected with few others. Only a drain that a
person began outlives a restart, in a file; every other cause is looked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from spegel_py.errors import PeerError
from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.reference import DRAINING_KEY
from spegel_py.replicas.action_record import ACTOR, OnAction, ignore_action
from spegel_py.replicas.drain_state import DrainCause, DrainState, failing, is_braked
from spegel_py.replicas.keep_messages import SickNotice, decode_answer, encode
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.sick_reports import SickReports
from spegel_py.routing.base import RequestResponse, Router
from spegel_py.telemetry.logging import FaultLog
from spegel_py.tools.files import replace_file
from spegel_py.tools.threads import run

log = structlog.get_logger(__name__)

FILE = "draining.json"
"""The file below the data directory while a person lets this node drain."""

TICK = 1.0
"""Seconds between two looks at the causes."""

PEERS, PEERS_IDLE = 15.0, 60.0
"""Seconds between two lookups of the peers that drain; the second on a node that keeps no images,
which only shows them."""

FRESH = 3.0
"""Seconds after a lookup of the peers that drain in which it is not repeated."""

MAX_PEERS = 1000
"""Peers that drain and are looked up."""

PATIENCE, SPREAD = 30.0, 120.0
"""Seconds for which a disk must fail before the node drains, and seconds over which nodes whose
disks fail together begin: each sees how many drain already."""

DAMAGED = 3
"""Damaged blobs that show a failing disk; one may be an accident."""

TELL = 100.0
"""Seconds after which a peer is told again that it is expected to fail: its drain lasts as long."""

ANSWER = 3.0
"""Seconds for an answer to that."""


class DrainSigns:
    """The functions that read why this node, or a peer, may fail.

    Args:
        is_automatic: False to drain for no cause that the node finds by itself.
        connected: returns the ids of the connected peers.
        predicted: returns the peers that are about to fail, each with the reason.
        unhealthy: returns the peers that fail their checks, each with the reason.
        disk_faults: returns the faults of this node's disks, as sentences.
        damaged: returns the number of blobs whose copies on this node are damaged.
        cordoned: returns why the orchestrator drains this machine; empty if it does not.
    """

    def __init__(
        self,
        *,
        is_automatic: bool = False,
        connected: Callable[[], Collection[str]] = tuple,
        predicted: Callable[[], Mapping[str, str]] = dict,
        unhealthy: Callable[[], Mapping[str, str]] = dict,
        disk_faults: Callable[[], Iterable[str]] = tuple,
        damaged: Callable[[], int] = int,
        cordoned: Callable[[], str] = str,
    ) -> None:
        self.is_automatic = is_automatic
        self.connected = connected
        self.predicted = predicted
        self.unhealthy = unhealthy
        self.disk_faults = disk_faults
        self.damaged = damaged
        self.cordoned = cordoned

    def __repr__(self) -> str:
        return f"<DrainSigns automatic={self.is_automatic}>"


class Draining:
    """Sets and ends the drain of this node.

    Args:
        state: is changed by this, and read by the other parts.
        requests: carries messages to peers that are expected to fail.
        folder: the data directory; None to forget a drain at the end of the process.
        clock: Unix time.
    """

    def __init__(
        self,
        *,
        state: DrainState,
        router: Router,
        requests: RequestResponse,
        signs: DrainSigns,
        folder: Path | None,
        metrics: ReplicaMetrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.signs = signs
        self._router = router
        self._requests = requests
        self._path = folder / FILE if folder else None
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic
        self._reports = SickReports()
        # the place of this node among all, from 0 to 1
        self._place = hashlib.sha256(requests.id.encode()).digest()[0] / 255
        self._faulty_since: float | None = None
        self._found = -math.inf
        self._told: dict[str, float] = {}
        self._faults = FaultLog(log)
        self.on_action: OnAction = ignore_action
        """Is called with the record of each begin and end of a drain."""

    def __repr__(self) -> str:
        return f"<Draining {self.state!r} {self._reports!r}>"

    def on_sick(self, peer: str, why: str) -> None:
        """Record, in any thread, that a peer expects this node to fail."""
        self._reports.add(peer, why, self._monotonic())

    async def begin(self, cause: DrainCause, why: str, *, actor: str = ACTOR) -> None:
        """Let this node drain for a cause; nothing happens if it does already."""
        if cause in self.state.causes:
            return
        is_first = not self.state.is_draining
        self._set({**self.state.causes, cause: why})
        log.warning("drain began", cause=cause.value, why=why)
        self._record("drain", cause, why, actor)
        if is_first:
            await self._router.advertise([DRAINING_KEY])
        if cause is DrainCause.COMMAND:
            await self._write(why)

    async def end(self, cause: DrainCause, *, actor: str = ACTOR) -> None:
        """End the drain for a cause; nothing happens if there is none."""
        if cause not in self.state.causes:
            return
        why = self.state.causes[cause]
        self._set({one: text for one, text in self.state.causes.items() if one is not cause})
        log.info("drain ended", cause=cause.value, why=why)
        self._record("undrain", cause, why, actor)
        if not self.state.is_draining:
            await self._router.withdraw([DRAINING_KEY])
        if cause is DrainCause.COMMAND:
            await self._write("")

    async def run(self) -> None:
        """Look for causes, and for peers that drain, until cancelled."""
        if why := await self._read():
            await self.begin(DrainCause.COMMAND, why)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self.look, TICK), name="drain causes")
            pause = PEERS if self.signs.is_automatic else PEERS_IDLE
            tasks.create_task(self._repeat(self.find_peers, pause), name="draining peers")

    async def _repeat(self, step: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - a fault here must not end the node
                self._faults.log_once("drain was not judged", error)
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Begin and end the drains that this node's own causes ask for, and warn failing peers."""
        now, signs, state = self._monotonic(), self.signs, self.state
        found = self._causes(now)
        for cause in (DrainCause.DISK, DrainCause.SICK, DrainCause.CORDONED):
            if cause not in found:
                await self.end(cause)
            elif cause not in state.causes and (
                cause is DrainCause.CORDONED or not await self._is_braked()
            ):
                await self.begin(cause, found[cause])
        predicted, unhealthy = signs.predicted(), signs.unhealthy()
        lost = failing(state.failing_peers, predicted=predicted, unhealthy=unhealthy)
        if lost != state.failing_peers:
            state.failing_peers = lost
            state.changed.set()
        await self._warn({**unhealthy, **predicted}, now)

    async def find_peers(self) -> None:
        """Look up the peers that drain."""
        found = frozenset(
            [peer.id async for peer in self._router.lookup(DRAINING_KEY, limit=MAX_PEERS)]
        )
        self._found = self._monotonic()
        if found != self.state.draining_peers:
            log.info("draining peers", peers=sorted(found))
            self.state.draining_peers = found
            self.state.changed.set()

    async def _is_braked(self) -> bool:
        if self._monotonic() - self._found >= FRESH:
            await self.find_peers()
        return is_braked(len(self.state.draining_peers), len(self.signs.connected()))

    def _causes(self, now: float) -> dict[DrainCause, str]:
        """Return the causes that this node finds by itself, each with a sentence."""
        found = {}
        faults = "; ".join(self.signs.disk_faults())
        if (damaged := self.signs.damaged()) >= DAMAGED:
            faults = faults or f"{damaged} blobs are damaged"
        self._faulty_since = (self._faulty_since or now) if faults else None
        patience = PATIENCE + SPREAD * self._place
        if self._faulty_since is not None and now - self._faulty_since >= patience:
            found[DrainCause.DISK] = faults
        if why := self._reports.reason(now):
            found[DrainCause.SICK] = why
        if not self.signs.is_automatic:
            found = {}
        if why := self.signs.cordoned():
            found[DrainCause.CORDONED] = why
        return found

    async def _warn(self, reasons: Mapping[str, str], now: float) -> None:
        """Tell the peers that this node expects to fail, so that they give their images away."""
        self._told = {peer: at for peer, at in self._told.items() if now - at < TELL}
        due = self.state.failing_peers & self._requests.partners().keys() - self._told.keys()
        self._told |= dict.fromkeys(due, now)
        await asyncio.gather(*(self._tell(peer, reasons.get(peer, "")) for peer in due))

    async def _tell(self, peer: str, why: str) -> None:
        message = SickNotice("".join(each for each in why if each.isprintable()) or "it is slow")
        with suppress(PeerError, MessageError):
            decode_answer(await self._requests.request(peer, encode(message), timeout=ANSWER))
            log.info("peer warned", peer=peer, why=why)

    def _set(self, causes: Mapping[DrainCause, str]) -> None:
        self.state.causes = causes
        self.state.changed.set()
        self._metrics.draining(cause.value for cause in causes)

    def _record(self, action: str, cause: DrainCause, why: str, actor: str) -> None:
        self.on_action(
            {
                "time": round(self._clock(), 3),
                "actor": actor,
                "action": action,
                "why": cause.value,
                "detail": why,
                "outcome": "done",
            }
        )

    # The file

    async def _write(self, why: str) -> None:
        if self._path is None:
            return
        try:
            if why:
                data = json.dumps({"why": why}).encode()
                await run(replace_file, self._path, data, mode=0o600)
            else:
                await run(self._path.unlink, missing_ok=True)
        except OSError as error:
            log.warning("drain was not written", path=str(self._path), error=str(error))

    async def _read(self) -> str:
        if self._path is None:
            return ""
        try:
            return str(json.loads(await run(self._path.read_bytes))["why"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("drain cannot be read", path=str(self._path), error=repr(error))
            return ""
