"""A rogue node plays all its attacks against the cluster, while a containerd pulls the image again and again.

Its own wrong answers for a tag are left out: the image is pulled by its digest, since a peer's word for a tag cannot be
held against anything.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import psutil

import spegel_py
from tests.benchmarks.report import aligned
from tests.faults.chaos.field import Field
from tests.faults.chaos.pulls import DEADLINE, Pull, content_of
from tests.faults.chaos.report import ALLOWANCE
from tests.faults.rogue.attacks import ATTACKS
from tests.integration.cluster import state
from tests.lab import REGISTRY, Node
from tests.processes import Process, until

CALM = 25
"""Pulls before the rogue comes, to compare with: as many as it takes until memory does not grow any more."""
GROWTH = 1.2
"""Factor by which the memory of an honest node may be larger with the rogue than without."""
CALM_AGAIN = 60.0
"""Seconds after the rogue's end within which all honest nodes must know each other, and nobody else."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen while the rogue was at one attack: the pulls, and the most memory of an honest node in bytes."""

    attack: str
    pulls: tuple[Pull, ...]
    memory: int


@dataclass(frozen=True, slots=True)
class Siege:
    """All turns; `calm` is the one before the rogue came, `complaints` what was wrong besides."""

    calm: Turn
    turns: tuple[Turn, ...]
    complaints: tuple[str, ...]

    @property
    def missed(self) -> list[str]:
        """Return the bounds that were missed, in words."""
        longest = max(pull.seconds for pull in self.calm.pulls) + ALLOWANCE
        found = list(self.complaints)
        for turn in self.turns:
            if failed := [
                pull for pull in turn.pulls if not pull.succeeded or pull.content != "right"
            ]:
                found.append(
                    f"{turn.attack}: {len(failed)} pulls failed: {failed[0].errors or failed[0].content}"
                )
            if late := [pull.seconds for pull in turn.pulls if pull.seconds > longest]:
                found.append(f"{turn.attack}: a pull took {max(late):.1f} s")
            if turn.memory > GROWTH * self.calm.memory:
                found.append(
                    f"{turn.attack}: {turn.memory / self.calm.memory:.2f} times the memory"
                )
        if unseen := [turn.attack for turn in self.turns if not turn.pulls]:
            found.append(f"no pull during {', '.join(unseen)}")
        return found

    def markdown(self) -> str:
        """Return a table with a line for each attack, and the bounds that were missed."""
        head = (
            "attack",
            "pulls",
            "succeeded",
            "p50 s",
            "max s",
            "most MB of a node",
            "times the calm",
        )
        rows = [_line(turn, self.calm.memory) for turn in (self.calm, *self.turns)]
        missed = "\n".join(f"- {one}" for one in self.missed) or "Every bound was kept."
        return f"## A rogue peer\n\n{aligned([head, *rows])}\n\n{missed}\n"


def _line(turn: Turn, calm: int) -> tuple[str, ...]:
    seconds = [pull.seconds for pull in turn.pulls]
    return (
        turn.attack,
        str(len(seconds)),
        str(sum(pull.succeeded for pull in turn.pulls)),
        f"{statistics.median(seconds):.1f}" if seconds else "",
        f"{max(seconds):.1f}" if seconds else "",
        f"{turn.memory / 1e6:.0f}",
        f"{turn.memory / calm:.2f}",
    )


async def besiege(field: Field, *, tours: int, seconds: float, only: Sequence[str] = ()) -> Siege:
    """Let the rogue play so many tours of its attacks (all of them, or `only` some), each turn of so many seconds."""
    puller = field.pullers[0]
    await field.refresh([puller], {})
    watched = _Watched(field, puller)
    calm = Turn("none", tuple([await watched.pull() for _ in range(CALM)]), watched.memory)
    rogue = _process(field, tours=tours, seconds=seconds, only=only)
    turns: dict[str, list[Pull]] = {}
    memory: dict[str, int] = {}
    await rogue.start(lambda: _begun(rogue))
    try:
        while rogue.pid is not None:
            begins, watched.memory = _current(rogue), 0
            pull = await watched.pull()
            for attack in dict.fromkeys(
                [begins, _current(rogue)]
            ):  # a pull may last from one attack into the next
                turns.setdefault(attack, []).append(pull)
                memory[attack] = max(memory.get(attack, 0), watched.memory)
    finally:
        await rogue.end()
    complaints = [f"the rogue itself failed at {name}: {why}" for name, why in _failures(rogue)]
    complaints += await watched.aftermath()
    played = [name for name in ATTACKS if name in turns or not only or name in only]
    return Siege(
        calm,
        tuple(Turn(name, tuple(turns.get(name, ())), memory.get(name, 0)) for name in played),
        tuple(complaints),
    )


class _Watched:
    """The honest nodes, and the pulls of one of them."""

    def __init__(self, field: Field, puller: Node) -> None:
        self._field = field
        self._puller = puller
        self._reference = f"{REGISTRY}/test/chaos@{field.image.blobs[0].digest}"
        self._processes = {
            node.address: psutil.Process(node.spegel.pid) for node in field.lab.nodes if node.spegel
        }
        self.memory = 0

    async def pull(self) -> Pull:
        """Pull once, look at what came, and forget it."""
        began = time.monotonic()
        errors: tuple[str, ...] = ()
        try:
            await self._puller.cri.pull(self._reference, deadline=DEADLINE)
        except grpc.aio.AioRpcError as failure:
            errors = (f"{failure.code().name}: {failure.details()}"[:300],)
        seconds = time.monotonic() - began
        content = content_of(self._field, self._puller)
        self.memory = max(
            self.memory, *(each.memory_info().rss for each in self._processes.values())
        )
        await self._forget()
        return Pull(seconds=seconds, succeeded=not errors, errors=errors, content=content)

    async def _forget(self) -> None:
        for image in await self._puller.cri.images():
            await self._puller.cri.remove(image.id)

        async def is_empty() -> bool:
            return not await self._puller.daemon.content()

        await until(is_empty, deadline=DEADLINE, pause=0.05)

    async def aftermath(self) -> list[str]:
        """Return what is wrong some time after the rogue is gone."""
        wrong = [
            f"the node {address} ended"
            for address, each in self._processes.items()
            if not each.is_running()
        ]

        async def is_calm() -> bool:
            counts = [len((await state(node))["peers"]) for node in self._field.lab.nodes]
            return set(counts) == {len(counts) - 1}

        try:
            await until(is_calm, deadline=CALM_AGAIN, pause=0.5)
        except TimeoutError:
            wrong.append(
                f"the nodes do not know each other {CALM_AGAIN:.0f} s after the rogue's end"
            )
        return wrong


def _process(field: Field, *, tours: int, seconds: float, only: Sequence[str]) -> Process:
    machine = field.lab.guests["rogue"]
    folder = field.lab.registry.folder.parent
    world = {
        "address": machine.address,
        "targets": [node.address for node in field.lab.nodes],
        "content": str(folder / "rogue"),
        "manifest": str(field.image.blobs[0].digest),
        "registry": REGISTRY.partition(":")[0],
        "tours": tours,
        "seconds": seconds,
        "only": list(only),
    }
    (folder / "rogue").mkdir()
    for blob in field.image.blobs:
        (folder / "rogue" / blob.digest.hex).write_bytes(blob.data)
    (folder / "rogue.json").write_text(json.dumps(world))
    return Process(
        command=[
            *machine.prefix,
            sys.executable,
            "-m",
            "tests.faults.rogue",
            str(folder / "rogue.json"),
        ],
        log=folder / "rogue.log",
        environment={"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
    )


async def _begun(rogue: Process) -> bool:
    return "attack" in rogue.output


def _lines(rogue: Process) -> list[dict[str, str]]:
    return [
        json.loads(line)
        for line in rogue.output.splitlines()
        if line.startswith("{") and line.endswith("}")
    ]


def _current(rogue: Process) -> str:
    return next(line["attack"] for line in reversed(_lines(rogue)) if "attack" in line)


def _failures(rogue: Process) -> list[tuple[str, str]]:
    return [(line["attack"], line["failure"]) for line in _lines(rogue) if line.get("failure")]
