"""The rows of the drill about images that the cluster keeps: they must outlive their nodes.

They are played on the machines of the other rows, by nodes with a floor of two.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from spegel_py.supervision import conditions
from spegel_py.supervision.conditions import Condition
from tests.faults.drill.cluster import DrillCluster
from tests.faults.drill.keeping_node import SLOW
from tests.faults.drill.keeping_node import STEP as STEP_NAME
from tests.faults.drill.report import DrillOutcome, Measure, Sighting
from tests.faults.harness import recorded
from tests.faults.pulls import Attempt, attempt
from tests.integration.chronicles import history
from tests.integration.cluster import (
    events,
    everybody,
    joined,
    kill_node,
    manifest_path,
    metric,
    registry_away,
    state,
)
from tests.support.images import image
from tests.support.lab import Node
from tests.support.processes import run, until

PROGRAM = "tests.faults.drill.keeping_node"

REPAIRED = 33.0
"""Seconds until the floor is back: the grace of 3 s, and 30 s."""
EVACUATED = 60.0
"""Seconds until only copies are elsewhere."""
ALERTED = 30.0
"""Seconds until the alert of a floor that was missed for 8 s."""
NEVER = 90.0
"""Seconds after which an event counts as not happening."""

IMAGES = 5
"""Images of a node that goes."""
USELESS = 3.0
"""Seconds by which each answer of a failing node is late when it dies."""
SHORT_STEP, STEP = 1.5, 10.0
"""Seconds over which forecasts average costs in the short form, and in a real node."""
GROWTH, SLOW_FROM = 1.3, 0.02
"""Factor by which answers of a failing node become slower in each step, and the first delay."""

KEPT, SOLE, WANTED = "kept", "sole", "wanted"
"""Folders of images: kept by all nodes, by none, and by the first node alone."""


class KeepingCluster:
    """The nodes of the drill, started again with a floor."""

    def __init__(self, *, cluster: DrillCluster, step: float) -> None:
        self.step = step
        self.lab = cluster.lab
        self.nodes = cluster.nodes
        self._is_started = False

    async def prepare(self) -> None:
        """Start all nodes with a floor, or those that are away."""
        if not self._is_started:
            for node in self.nodes:
                node.under = ("env", f"{STEP_NAME}={self.step}", *node.under)
                if node.spegel is not None:
                    await node.spegel.end()
        if self.lab.registry.process.pid is None:
            await self.lab.registry.start()
        await asyncio.gather(*map(self.restore, self.nodes))
        await joined(*self.nodes)
        self._is_started = True

    async def restore(self, node: Node, **flags: str) -> None:
        """Plug in a node, and start its programs that do not run."""
        (node.folder / "data" / SLOW).unlink(missing_ok=True)
        await node.namespace.plug(is_in=True)
        node.program = PROGRAM
        if node.daemon.process.pid is None:
            await node.daemon.start()
        if node.spegel is None or node.spegel.pid is None:
            await node.start_spegel(**(self._flags(node) | flags))

    async def give(self, folder: str, name: str, node: Node, *, count: int = IMAGES) -> list[str]:
        """Push images, and let one node pull them; return their references."""
        names = [self.lab.name(f"{folder}/{name}-{number}:1") for number in range(count)]
        for reference in names:
            await self.lab.registry.push(reference, image(reference, layers=2, size=200_000))
        await asyncio.gather(*(node.cri.pull(reference) for reference in names))
        return names

    async def keepers(self, reference: str) -> list[Node]:
        """Return the running nodes that keep an image."""
        return [node for node in self._alive() if reference in await self._kept(node)]

    async def until_kept(
        self, references: Sequence[str], count: int, *, without: Node | None = None
    ) -> float | None:
        """Wait until so many nodes keep each image; return the seconds, None if they never do."""
        began = time.monotonic()

        async def are_kept() -> bool:
            kept = [await self._kept(node) for node in self._alive() if node is not without]
            return all(sum(one in names for names in kept) >= count for one in references)

        with suppress(TimeoutError):
            await until(are_kept, deadline=NEVER, pause=0.2)
            return time.monotonic() - began
        return None

    async def pulls(self, references: Sequence[str], nodes: Sequence[Node]) -> list[Attempt]:
        """Let nodes in turn pull each image while the registry is away."""
        async with registry_away(self.lab):
            found = []
            for number, reference in enumerate(references):
                node = nodes[number % len(nodes)]
                found.append(await attempt(node, reference))
                await node.cri.remove(reference)
            return found

    async def evacuate(self, node: Node, *arguments: str) -> None:
        """Run `evacuate` for a node, and wait until it is over."""
        socket = node.folder / "data" / "control.sock"
        command = (sys.executable, "-m", "spegel_py", "evacuate", *arguments, "--json")
        await run(*command, "--control-socket", str(socket), deadline=NEVER)

    def others(self, node: Node) -> list[Node]:
        """Return all nodes but one."""
        return [other for other in self.nodes if other is not node]

    def _alive(self) -> list[Node]:
        return [node for node in self.nodes if node.spegel is not None and node.spegel.pid]

    async def _kept(self, node: Node) -> set[str]:
        body = (await node.get("/debug/replicas", port=9090)).body
        return {
            name for one in json.loads(body)["images"] if one["replica"] for name in one["names"]
        }

    def _flags(self, node: Node) -> dict[str, str]:
        selected = f"/({KEPT}|{WANTED})/" if node is self.nodes[0] else f"/{KEPT}/"
        return {
            "static_bootstrap_peers": everybody(self.lab),
            "replica_floor": "2",
            "replicate_images": selected,
            "health_interval": "7s",
            "health_timeout": "6s",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepingRow:
    """A row: its scenario fills an outcome. `expected` are the conditions that it must show.

    The short form has the rows that no test plays with real nodes.
    """

    name: str
    scenario: Callable[[KeepingCluster, DrillOutcome], Awaitable[DrillOutcome]]
    expected: tuple[Condition, ...] = ()
    is_short: bool = False


class KeepingPlayer:
    """Plays one row after the other.

    Args:
        logs: the folder for logs of rows that went wrong.
        step: seconds over which forecasts average costs.
    """

    def __init__(self, *, cluster: DrillCluster, logs: Path | None, step: float) -> None:
        self._cluster = cluster
        self._keeping = KeepingCluster(cluster=cluster, step=step)
        self._logs = logs

    async def play(self, row: KeepingRow) -> DrillOutcome:
        """Play a row; a failure to play it is recorded in its outcome."""
        errors: list[str] = []
        outcome = DrillOutcome(row=row.name)
        with recorded(errors):
            await self._keeping.prepare()
            outcome = await row.scenario(self._keeping, outcome)
        outcome = replace(outcome, error="".join(errors))
        if outcome.missed and self._logs:
            self._cluster.keep_logs(self._logs, row.name)
        return outcome


async def _floor_repaired(cluster: KeepingCluster, outcome: DrillOutcome) -> DrillOutcome:
    """A node with replicas is killed: two of the others keep each image."""
    victim = cluster.nodes[1]
    references = await cluster.give(KEPT, "repair", victim)
    await cluster.until_kept(references, 2)
    await kill_node(victim)
    seconds = await cluster.until_kept(references, 2)
    pulls = await cluster.pulls(references, cluster.others(victim))
    moved = Measure(seconds=seconds, limit=REPAIRED)
    return replace(outcome, moved=moved, pulls=tuple(pulls))


async def _drained(cluster: KeepingCluster, outcome: DrillOutcome) -> DrillOutcome:
    """A node gives its only copies away by command, and is switched off."""
    victim = cluster.nodes[4]
    references = await cluster.give(SOLE, "drain", victim)
    began = time.monotonic()
    await cluster.evacuate(victim, "--wait")
    moved = Measure(seconds=time.monotonic() - began, limit=EVACUATED)
    seen = await alerted(victim, conditions.DRAINING, is_open=True)
    await kill_node(victim)
    saved = [one for one in references if await cluster.keepers(one)]
    pulls = await cluster.pulls(references, cluster.others(victim))
    await cluster.restore(victim)
    await cluster.evacuate(victim, "--undo")
    over = await alerted(victim, conditions.DRAINING, is_open=False)
    return replace(
        outcome,
        moved=moved,
        saved=(len(saved), len(references)),
        pulls=tuple(pulls),
        sightings=(await sighting_of(victim, conditions.DRAINING, seen, over),),
    )


async def _predicted(cluster: KeepingCluster, outcome: DrillOutcome) -> DrillOutcome:
    """A node answers slower and slower until it is useless, and dies then."""
    victim = cluster.nodes[5]
    others = cluster.others(victim)
    references = await cluster.give(SOLE, "sick", victim)
    scored, began = await _scored(others), time.time()
    async with _asking(references[0], others):
        delay = 0.0
        while delay < USELESS:
            (victim.folder / "data" / SLOW).write_text(f"{delay:.3f}")
            await asyncio.sleep(cluster.step)
            delay = max(SLOW_FROM, delay * GROWTH)
    saved = [one for one in references if set(await cluster.keepers(one)) - {victim}]
    await kill_node(victim)
    died = time.time()
    told = [at for node in others for at in _predictions(node, victim) if at >= began]
    pulls = await cluster.pulls(saved, others)

    async def is_scored() -> bool:
        return await _scored(others) > scored

    with suppress(TimeoutError):
        await until(is_scored, deadline=NEVER, pause=0.5)
    return replace(
        outcome,
        saved=(len(saved), len(references)),
        lead=died - min(told) if told else None,
        is_foretold=bool(told) and await is_scored(),
        pulls=tuple(pulls),
    )


@asynccontextmanager
async def _asking(reference: str, nodes: Sequence[Node]) -> AsyncIterator[None]:
    """Let these nodes ask for an image all the time, so that they see how quick its holder is."""

    async def ask(node: Node) -> None:
        while True:
            await node.get(manifest_path(reference), method="HEAD", timeout=20.0)
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(ask(node)) for node in nodes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _floor_missed(cluster: KeepingCluster, outcome: DrillOutcome) -> DrillOutcome:
    """All other nodes refuse an image. Then one of them pulls it, and may keep it."""
    speaker, other = cluster.nodes[0], cluster.nodes[2]
    [reference] = await cluster.give(WANTED, "missed", speaker, count=1)
    seen = await alerted(speaker, conditions.FLOOR_MISSED, is_open=True)
    assert other.spegel
    await other.spegel.end()
    await cluster.restore(other, replicate_images=f"/({KEPT}|{WANTED})/")
    await other.cri.pull(reference)
    over = await alerted(speaker, conditions.FLOOR_MISSED, is_open=False)
    sighting = await sighting_of(speaker, conditions.FLOOR_MISSED, seen, over, limit=ALERTED)
    return replace(outcome, sightings=(sighting,))


async def alerted(node: Node, condition: Condition, *, is_open: bool) -> float | None:
    """Wait until a node has the alert open, or has none; return the seconds, None for never."""
    began = time.monotonic()

    async def is_so() -> bool:
        alerts = (await state(node))["supervision"]["alerts"]
        return any(one["condition"] == condition.name for one in alerts) == is_open

    with suppress(TimeoutError):
        await until(is_so, deadline=NEVER, pause=0.2)
        return time.monotonic() - began
    return None


async def sighting_of(
    node: Node,
    condition: Condition,
    seen: float | None,
    over: float | None,
    *,
    limit: float | None = None,
) -> Sighting:
    """Return what a node showed, once its history has the closed alert."""

    async def is_closed() -> bool:
        return any(
            one.condition == condition.name and not one.is_open for one in history(node).alerts
        )

    with suppress(TimeoutError):
        await until(is_closed, deadline=10.0, pause=0.2)
    return Sighting(
        node=node.address,
        condition=condition.name,
        tier=condition.tier.label,
        seen=seen,
        seen_limit=limit or condition.tier.detect,
        over=over,
        over_limit=condition.tier.recover,
        is_on_record=await is_closed(),
    )


async def _scored(nodes: Sequence[Node]) -> float:
    """Return the number of right predictions that these nodes counted."""
    name = "spegel_health_predictions_total"
    return sum([await metric(node, name, outcome="true") for node in nodes])


def _predictions(node: Node, victim: Node) -> list[float]:
    """Return the Unix times at which a node predicted the failure of another one."""
    return [
        datetime.datetime.fromisoformat(str(entry["timestamp"])).timestamp()
        for entry in events(node, "failure predicted")
        if str(entry["addr"]).startswith(f"{victim.address}:")
    ]


KEEPING = (
    KeepingRow(name="floor repaired", scenario=_floor_repaired),
    KeepingRow(name="node drained", scenario=_drained, expected=(conditions.DRAINING,)),
    KeepingRow(
        name="failure predicted",
        scenario=_predicted,
        expected=(conditions.PEER_PREDICTED,),
        is_short=True,
    ),
    KeepingRow(
        name="floor missed",
        scenario=_floor_missed,
        expected=(conditions.FLOOR_MISSED,),
        is_short=True,
    ),
)
"""The rows. The short form has quicker forecasts."""
