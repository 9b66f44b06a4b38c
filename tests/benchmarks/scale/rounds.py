"""The rounds that many routers go through, with the figures of each.

start → announce → look up → calm → one more joins → a third is killed → split and healed → rolling
restart. Every round ends with lookups from all members, which are judged.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Sequence
from statistics import fmean

from tests.benchmarks.figures import Figure, latencies, median_and_max
from tests.benchmarks.scale.findings import Findings, faults
from tests.benchmarks.scale.fleet import Fleet, HostProcess, Used, until
from tests.benchmarks.scale.plan import Answers, Size

KILLED = 0.3
"""Share of the routers that are killed at once."""
RESTARTED = 5
"""Members that are restarted one after the other."""
DEADLINE = 120.0
"""Seconds for each round, and RATE more for each connection."""
RATE = 0.2


class Rounds:
    """Goes through the rounds with one fleet, and collects the figures."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.size = fleet.size
        self.findings = Findings(fleet.size.text)
        self._weighed: list[HostProcess] = []

    async def run(self) -> list[Figure]:
        """Return the figures of all rounds."""
        for each in (
            self.start,
            self.announce,
            self.calm,
            self.one_more,
            self.kill,
            self.split_and_heal,
            self.restart,
        ):
            _say(f"{self.size.routers} routers: {each.__name__} …")
            done = len(self.findings.figures)
            try:
                await each()
            except TimeoutError as error:  # the rounds so far have still been measured
                self.findings.add(
                    f"{each.__name__}: {error}"[:300],
                    "",
                    {"not done": 1.0},
                    targets={"not done": 0.0},
                )
                break
            for figure in self.findings.figures[done:]:  # a run that is ended has shown them
                values = ", ".join(f"{name} {found:.4g}" for name, found in figure.values.items())
                _say(f"  {figure.name} [{figure.unit}]: {values}")
        self.findings.add(
            "answers of all rounds",
            "",
            {"lookups": float(self.findings.answers.lookups), **faults(self.findings.answers)},
            targets={"missing": 0.0, "wrong": 0.0},
        )
        return self.findings.figures

    # Rounds

    async def start(self) -> None:
        """Start all routers; done when every member is connected to all others."""
        fleet = self.fleet
        began = time.monotonic()
        await fleet.start()
        await self._until_met(fleet.members)
        seconds = time.monotonic() - began
        state = await fleet.used(fleet.members)
        total = sum(each.cpu for each in await fleet.used(fleet.up))
        links = sum(sum(each.peers) for each in state)
        self.findings.add("start of all", "s", {"until all members are connected to all": seconds})
        self.findings.add(
            "CPU of a start",
            "s",
            {"a member's": fmean(each.cpu / len(each.peers) for each in state)},
            samples=len(state),
        )
        self.findings.add(
            "CPU of all processes for each end of a connection",
            "ms",
            {"with the start": 1000 * total / max(1, 2 * links)},
        )
        self._weighed = fleet.members
        await self._weigh("members without records")

    async def announce(self) -> None:
        """Announce all keys, one process after the other.

        Done when every member holds all records of the others.
        """
        fleet = self.fleet
        before = await fleet.used(fleet.members)
        began = time.monotonic()
        announced = set[int]()
        for each in fleet.up:
            await each.do(do="announce")
            announced |= fleet.routers([each])
            await self._until_told(fleet.members, announced)
        seconds = time.monotonic() - began
        after = await fleet.used(fleet.members)
        self.findings.add(
            "all keys announced",
            "s",
            {
                "until every member has all": seconds,
                "CPU of a member": _growth(before, after),
            },
        )
        await self._weigh("members with all records")
        answers = await self._look_up()
        self.findings.answers.add(answers)
        self.findings.add(
            "lookups from all members",
            "ms",
            latencies(answers.seconds) | faults(answers),
            targets={"missing": 0.0, "wrong": 0.0},
            samples=answers.lookups,
        )

    async def calm(self) -> None:
        """Leave the routers alone, and read the CPU time of the members."""
        fleet = self.fleet
        before = await fleet.used(fleet.members)
        began = time.monotonic()
        await asyncio.sleep(self.size.calm)
        elapsed = time.monotonic() - began
        after = await fleet.used(fleet.members)
        shares = [
            100 * (late.cpu - early.cpu) / elapsed / len(late.peers)
            for early, late in zip(before, after, strict=True)
        ]
        self.findings.add(
            "CPU of an idle member",
            "% of a core",
            median_and_max(shares),
            samples=len(shares),
        )

    async def one_more(self) -> None:
        """Start one more member; done when it holds all records, and all members hold its own."""
        fleet = self.fleet
        others = fleet.members
        before = await fleet.used(others)
        began = time.monotonic()
        more = await fleet.add()
        await self._until_met([more])
        met = time.monotonic() - began
        await more.do(do="announce")
        await self._until_told([*others, more])
        seconds = time.monotonic() - began
        after = await fleet.used(others)
        (own,) = await fleet.used([more])
        self.findings.add(
            "one more joins",
            "s",
            {
                "connected to all": met,
                "holds all records": seconds,
                "its CPU": own.cpu,
                "CPU of another member": _growth(before, after),
            },
        )
        self.findings.judge("one more joins", await self._look_up())

    async def kill(self) -> None:
        """Kill many at once; done when no member is connected to any of them."""
        fleet = self.fleet
        victims = self._victims()
        gone = fleet.ids(victims)
        count = len(fleet.routers(victims))
        before = await fleet.used([each for each in fleet.members if each not in victims])
        began = time.monotonic()
        await asyncio.gather(*(each.kill() for each in victims))
        await self._until(lambda state: not _connected(state) & gone, fleet.members, pause=0.2)
        seconds = time.monotonic() - began
        after = await fleet.used(fleet.members)
        self.findings.add(
            f"{count} routers killed at once",
            "s",
            {
                "until every member has forgotten all": seconds,
                "CPU of a member": _growth(before, after),
            },
            targets={"until every member has forgotten all": 15.0},
        )
        self.findings.judge(f"{count} routers killed at once", await self._look_up())
        await self._weigh("members after that")

    async def split_and_heal(self) -> None:
        """Cut the fleet into halves, and let them meet again."""
        fleet = self.fleet
        halves = fleet.up[0::2], fleet.up[1::2]
        # A dial that was on its way when the other half was cut must be cut too.
        began = time.monotonic()
        while not await self._is_split(halves):
            if time.monotonic() > began + self._deadline():
                raise TimeoutError("the halves are still connected")
            for own, other in (halves, halves[::-1]):
                ports = [port for each in other for port in each.ports]
                await fleet.each(own, do="cut", ports=ports, ids=sorted(fleet.ids(other)))
            await asyncio.sleep(0.5)
        for own, _ in (halves, halves[::-1]):
            inside = [each for each in own if each in fleet.members]
            split = Answers()
            await fleet.look_up(inside, reachable=fleet.routers(own), answers=split)
            self.findings.judge("split", split)
        await asyncio.sleep(5.0)
        began = time.monotonic()
        await fleet.each(fleet.up, do="heal")
        await self._until_met(fleet.members)
        met = time.monotonic() - began
        await self._until_told(fleet.members)
        self.findings.add(
            "healing of a split in halves",
            "s",
            {
                "connected to all": met,
                "all records": time.monotonic() - began,
            },
        )
        self.findings.judge("healing of a split in halves", await self._look_up())

    async def restart(self) -> None:
        """Restart some members one after the other, while the others look keys up."""
        fleet = self.fleet
        seconds = []
        answers = Answers()
        for process in fleet.members[-RESTARTED:]:
            number = process.numbers[0]
            others = [each for each in fleet.members if each is not process]
            began = time.monotonic()
            restarted = asyncio.create_task(process.do(do="restart", number=number))
            while not restarted.done():
                await fleet.look_up(
                    others, reachable=fleet.routers(), answers=answers, restarting=number
                )
            await restarted
            await self._until_met([process])
            await self._until_told(fleet.members)
            seconds.append(time.monotonic() - began)
            _say(f"  router {number} is back after {seconds[-1]:.1f} s")
        self.findings.add(
            "rolling restart, one member",
            "s",
            median_and_max(seconds),
            samples=len(seconds),
        )
        answers.add(await self._look_up())
        self.findings.judge("rolling restart", answers)

    # Steps

    def _victims(self) -> list[HostProcess]:
        """Return processes with at most KILLED of the routers, the larger ones first.

        Most members stay, and the first router stays in any case.
        """
        fleet = self.fleet
        spared = (
            fleet.up[:1] if self.size.is_full_mesh else fleet.members[: -self.size.members // 4]
        )
        wanted, victims = math.ceil(KILLED * self.size.routers), list[HostProcess]()
        for each in sorted(fleet.up, key=lambda each: -len(each.numbers)):
            if len(each.numbers) <= wanted and each not in spared:
                victims.append(each)
                wanted -= len(each.numbers)
        return victims

    async def _is_split(self, halves: Sequence[Sequence[HostProcess]]) -> bool:
        """Return True if no router is connected to one of the other half."""
        for own, other in (halves, halves[::-1]):
            if _connected(await self.fleet.used(own)) & self.fleet.ids(other):
                return False
        return True

    async def _until_met(self, processes: Sequence[HostProcess]) -> None:
        """Wait until the routers of some processes are connected to all others."""
        everybody = len(self.fleet.routers())
        await self._until(
            lambda state: all(peers == everybody - 1 for each in state for peers in each.peers),
            processes,
        )

    async def _until_told(
        self, processes: Sequence[HostProcess], announced: set[int] | None = None
    ) -> None:
        """Wait until the routers of some processes hold all records of the others.

        Args:
            announced: the routers that have announced their keys, None for all.
        """
        told = self.fleet.routers() if announced is None else announced
        wanted = [
            len(told - {number}) * self.size.keys for each in processes for number in each.numbers
        ]
        await self._until(
            lambda state: [records for each in state for records in each.records] == wanted,
            processes,
        )

    async def _until(
        self,
        condition: Callable[[list[Used]], bool],
        processes: Sequence[HostProcess],
        *,
        pause: float = 0.5,
    ) -> None:
        await until(condition, self.fleet, processes, deadline=self._deadline(), pause=pause)

    def _deadline(self) -> float:
        return DEADLINE + RATE * self.size.members * self.size.routers

    async def _weigh(self, name: str) -> None:
        """Add the memory, threads and descriptors of those first members that still run."""
        present = [each for each in self._weighed if each.is_up]
        self.findings.weigh(name, await self.fleet.used(present, is_weighed=True))

    async def _look_up(self) -> Answers:
        answers = Answers()
        fleet = self.fleet
        await fleet.look_up(fleet.members, reachable=fleet.routers(), answers=answers)
        return answers


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _growth(before: Sequence[Used], after: Sequence[Used]) -> float:
    """Return the CPU seconds that a router used in between, on average."""
    grown = sum(each.cpu for each in after) - sum(each.cpu for each in before)
    return grown / sum(len(each.peers) for each in after)


def _connected(state: Sequence[Used]) -> set[str]:
    return {peer for each in state for peers in each.connected for peer in peers}


async def measure(size: Size) -> list[Figure]:
    """Run all rounds with routers of this size."""
    async with Fleet(size) as fleet:
        return await Rounds(fleet).run()
