"""The row of the rogue: it plays its attacks in turn while one node pulls again and again.

The image is pulled by its digest: nothing can refute the digest that a peer returns for a tag.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tests.faults.chaos.cluster import ChaosCluster
from tests.faults.chaos.report import ALLOWANCE
from tests.faults.primitives import python
from tests.faults.pulls import DEADLINE, Pull, attempt, content_of
from tests.faults.report import Columns, Outcome, decimal, median, table
from tests.faults.rogue.attacks import ATTACKS
from tests.integration.cluster import json_lines, state
from tests.support.lab import REGISTRY, Node
from tests.support.processes import Process, until

ROGUE = "rogue peer"
"""The name of the row."""
BASELINE_PULLS = 150
"""Pulls before the rogue starts: after that many, the memory of a node does not grow any more.
After 25 it grew by a tenth during attacks that cost no memory."""
GROWTH = 1.2
"""Factor by which the memory of an honest node may grow under attack."""
RECOVERY = 60.0
"""Seconds after the rogue's end within which each node knows all honest nodes and no other."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The pulls during one attack, and the most bytes of memory that an honest node had."""

    attack: str
    pulls: tuple[Pull, ...]
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RogueOutcome(Outcome):
    """The turns of all attacks, and one before the rogue started."""

    baseline: Turn
    turns: tuple[Turn, ...]
    complaints: tuple[str, ...]
    """Failures besides those of the turns."""

    def missed_bounds(self) -> list[str]:
        limit = max(pull.seconds for pull in self.baseline.pulls) + ALLOWANCE
        found = list(self.complaints)
        for turn in self.turns:
            bad = [pull for pull in turn.pulls if not pull.succeeded or pull.content != "right"]
            if bad:
                why = bad[0].errors or bad[0].content
                found.append(f"{turn.attack}: {len(bad)} pulls failed: {why}")
            if late := [pull.seconds for pull in turn.pulls if pull.seconds > limit]:
                found.append(f"{turn.attack}: a pull took {max(late):.1f} s")
            growth = turn.memory / self.baseline.memory
            if growth > GROWTH:
                found.append(f"{turn.attack}: {growth:.2f} times the memory")
        if unseen := [turn.attack for turn in self.turns if not turn.pulls]:
            found.append(f"no pull during {', '.join(unseen)}")
        return found

    def markdown(self) -> str:
        """Return a table with a line for each attack, and the bounds that were missed."""
        columns: Columns[Turn] = (
            ("attack", lambda turn: turn.attack),
            ("pulls", lambda turn: str(len(turn.pulls))),
            ("succeeded", lambda turn: str(sum(pull.succeeded for pull in turn.pulls))),
            ("p50 s", lambda turn: decimal(median([pull.seconds for pull in turn.pulls]))),
            (
                "max s",
                lambda turn: decimal(max((pull.seconds for pull in turn.pulls), default=None)),
            ),
            ("most MB of a node", lambda turn: f"{turn.memory / 1e6:.0f}"),
            ("times the calm", lambda turn: f"{turn.memory / self.baseline.memory:.2f}"),
        )
        missed = "\n".join(f"- {one}" for one in self.missed) or "Every bound was kept."
        return f"## A rogue peer\n\n{table(columns, (self.baseline, *self.turns))}\n\n{missed}\n"


async def play_rogue(
    cluster: ChaosCluster, *, seconds: float, only: Sequence[str] = ()
) -> RogueOutcome:
    """Let the rogue play its attacks once, all or `only` some, for this many seconds each."""
    puller = cluster.pullers[0]
    await cluster.refresh([puller], {})
    measured = _MeasuredPuller(cluster, puller)
    baseline = [await measured.pull() for _ in range(BASELINE_PULLS)]
    before = Turn("none", tuple(baseline), measured.memory)
    rogue = _process(cluster, seconds=seconds, only=only)
    pulls: dict[str, list[Pull]] = {}
    memory: dict[str, int] = {}
    await rogue.start(lambda: _has_begun(rogue))
    try:
        while rogue.pid is not None:
            at_start, measured.memory = _current(rogue), 0
            pull = await measured.pull()
            # a pull that lasts into the next attack counts for both
            for attack in dict.fromkeys([at_start, _current(rogue)]):
                pulls.setdefault(attack, []).append(pull)
                memory[attack] = max(memory.get(attack, 0), measured.memory)
    finally:
        await rogue.end()
    complaints = [
        f"the rogue itself failed at {line['attack']}: {line['failure']}"
        for line in json_lines(rogue.output)
        if line.get("failure")
    ]
    complaints += await measured.complaints_after()
    played = [name for name in ATTACKS if name in pulls or not only or name in only]
    return RogueOutcome(
        row=ROGUE,
        baseline=before,
        turns=tuple(Turn(name, tuple(pulls.get(name, ())), memory.get(name, 0)) for name in played),
        complaints=tuple(complaints),
    )


class _MeasuredPuller:
    """The node that pulls, with the memory of all honest nodes."""

    def __init__(self, cluster: ChaosCluster, puller: Node) -> None:
        self._cluster = cluster
        self._puller = puller
        self._reference = f"{REGISTRY}/test/chaos@{cluster.image.blobs[0].digest}"
        self._processes = {
            node.address: psutil.Process(node.spegel.pid)
            for node in cluster.lab.nodes
            if node.spegel
        }
        self.memory = 0
        """The most bytes that a node had after a pull, until the caller resets it."""

    async def pull(self) -> Pull:
        """Pull once, check the content, and delete it."""
        made = await attempt(self._puller, self._reference)
        content = await asyncio.to_thread(content_of, self._cluster.image, self._puller)
        sizes = (process.memory_info().rss for process in self._processes.values())
        self.memory = max(self.memory, *sizes)
        await self._delete()
        return Pull.of([made], content)

    async def _delete(self) -> None:
        for image in await self._puller.cri.images():
            await self._puller.cri.remove(image.id)

        async def is_empty() -> bool:
            return not await self._puller.daemon.content()

        await until(is_empty, deadline=DEADLINE, pause=0.05)

    async def complaints_after(self) -> list[str]:
        """Return the nodes that ended, and whether the rest have forgotten the rogue in time."""
        complaints = [
            f"the node {address} ended"
            for address, process in self._processes.items()
            if not process.is_running()
        ]

        async def has_recovered() -> bool:
            counts = [len((await state(node))["peers"]) for node in self._cluster.lab.nodes]
            return set(counts) == {len(counts) - 1}

        try:
            await until(has_recovered, deadline=RECOVERY, pause=0.5)
        except TimeoutError:
            complaints.append(
                f"the nodes do not know each other {RECOVERY:.0f} s after the rogue's end"
            )
        return complaints


def _process(cluster: ChaosCluster, *, seconds: float, only: Sequence[str]) -> Process:
    machine = cluster.lab.guests["rogue"]
    folder = cluster.lab.registry.folder.parent
    environment = {
        "address": machine.address,
        "targets": [node.address for node in cluster.lab.nodes],
        "content": str(folder / "rogue"),
        "registry": REGISTRY.partition(":")[0],
        "seconds": seconds,
        "only": list(only),
    }
    (folder / "rogue").mkdir()
    for blob in cluster.image.blobs:
        (folder / "rogue" / blob.digest.hex).write_bytes(blob.data)
    (folder / "rogue.json").write_text(json.dumps(environment))
    file, log = folder / "rogue.json", folder / "rogue.log"
    return python(machine, "tests.faults.rogue", str(file), log=log)


async def _has_begun(rogue: Process) -> bool:
    return "attack" in rogue.output


def _current(rogue: Process) -> str:
    """Return the name of the attack that is going on."""
    lines = json_lines(rogue.output)
    return str(next(line["attack"] for line in reversed(lines) if "attack" in line))
