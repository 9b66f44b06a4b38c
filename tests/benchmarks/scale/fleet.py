"""Many routers in a few processes: started, asked, killed, split and restarted together."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from tests.benchmarks import machine
from tests.benchmarks.routers import free_ports
from tests.benchmarks.scale.plan import Answers, Size, expected_of, holders, sample_of

ANSWER_DEADLINE = 600.0
"""Seconds for one command: a thousand routers may start at once."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a process used, and the routers in it; memory in MB, 0 if it was not weighed.

    `peers`, `connected` and `records` have one entry for each router.
    """

    peers: list[int]
    connected: list[list[str]]
    records: list[int]
    cpu: float
    rss: float
    pss: float
    threads: int
    descriptors: int


class HostProcess:
    """One process with some of the routers; `everybody` has the ports of all."""

    def __init__(
        self,
        numbers: Sequence[int],
        everybody: Sequence[int],
        bootstrap: Sequence[int],
        size: Size,
    ) -> None:
        self.numbers = list(numbers)
        self.ports = [everybody[number] for number in numbers]
        self.ids: list[str] = []
        self._options = {
            "numbers": self.numbers,
            "ports": self.ports,
            "everybody": list(everybody),
            "bootstrap": list(bootstrap),
            "size": asdict(size),
            "is_member": self.numbers[0] < size.members,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<HostProcess of routers {self.numbers[0]} to {self.numbers[-1]}>"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.scale.router_host",
            json.dumps(self._options),
            cwd=machine.ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 28,
        )
        self.ids = (await self._answer())["ids"]

    async def do(self, **command: Any) -> Any:
        """Send one command and return its answer."""
        async with self._lock:
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            await self._process.stdin.drain()
            return await self._answer()

    async def used(self, *, is_weighed: bool = False) -> Used:
        return Used(**await self.do(do="stats", is_weighed=is_weighed))

    async def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_DEADLINE):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self!r} ended with {await self._process.wait()}")
        return json.loads(line)


class Fleet:
    """All routers of a run. Use as a context manager: it ends all processes."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.ports = free_ports(size.routers)
        groups = size.groups()
        self.processes = [self._process(group) for group in groups]

    def _process(self, group: range) -> HostProcess:
        """Return a process; a member knows the first one, every other router all members."""
        known = self.ports[: 1 if group[0] < self.size.members else self.size.members]
        return HostProcess(group, self.ports, known, self.size)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.kill() for each in self.processes))

    # Who is there

    @property
    def up(self) -> list[HostProcess]:
        return [each for each in self.processes if each.is_up]

    @property
    def members(self) -> list[HostProcess]:
        """The running processes of members."""
        return [each for each in self.up if each.numbers[0] < self.size.members]

    def routers(self, processes: Iterable[HostProcess] | None = None) -> set[int]:
        """Return the numbers of the routers in some processes, or in all running ones."""
        chosen = self.up if processes is None else processes
        return {number for each in chosen for number in each.numbers}

    def ids(self, processes: Iterable[HostProcess]) -> set[str]:
        return {each for process in processes for each in process.ids}

    # All of them

    async def start(self) -> None:
        """Start all processes: the first router, then the members, then the others."""
        await self.processes[0].start()
        rest = self.processes[1:]
        inner = [each for each in rest if each.numbers[0] < self.size.members]
        await asyncio.gather(*(each.start() for each in inner))
        await asyncio.gather(*(each.start() for each in rest if each not in inner))

    async def add(self) -> HostProcess:
        """Start one more member and return its process."""
        number = len(self.ports)
        port = next(each for each in free_ports(number + 1) if each not in self.ports)
        self.ports.append(port)
        more = HostProcess([number], self.ports, self.ports[:1], self.size)
        more._options["is_member"] = True
        self.processes.append(more)
        await more.start()
        return more

    async def each(self, processes: Iterable[HostProcess], **command: Any) -> list[Any]:
        return await asyncio.gather(*(one.do(**command) for one in processes))

    async def used(
        self, processes: Iterable[HostProcess], *, is_weighed: bool = False
    ) -> list[Used]:
        """Return what some processes use; their memory only if it `is_weighed`, which costs."""
        return await asyncio.gather(*(one.used(is_weighed=is_weighed) for one in processes))

    async def look_up(
        self,
        processes: Sequence[HostProcess],
        *,
        reachable: set[int],
        answers: Answers,
        restarting: int | None = None,
    ) -> None:
        """Look keys up from all routers of some processes, and judge the answers."""
        held = holders(self.size, reachable)
        known = sorted(held)
        numbers = {port: number for number, port in enumerate(self.ports)}

        async def ask(process: HostProcess) -> None:
            asking = process.numbers[0]
            keys = sample_of(asking, self.size, known)
            found = await process.do(do="lookup", keys=keys)
            for router, results in zip(process.numbers, found, strict=True):
                for key, (ports, seconds) in zip(keys, results, strict=True):
                    answers.judge(
                        [numbers[port] for port in ports],
                        expected_of(key, router, held, reachable),
                        restarting=restarting,
                        seconds=seconds,
                    )

        await asyncio.gather(*(ask(each) for each in processes))


async def until(
    condition: Callable[[list[Used]], bool],
    fleet: Fleet,
    processes: Sequence[HostProcess],
    *,
    deadline: float,
    pause: float = 0.5,
) -> float:
    """Wait until the state of some processes fulfils a condition. Return the seconds it took.

    Raises TimeoutError, with the numbers of peers and records as they are then.
    """
    start = time.monotonic()
    while True:
        state = await fleet.used(processes)
        if condition(state):
            return time.monotonic() - start
        if time.monotonic() - start > deadline:
            shown = [(each.peers, each.records) for each in state][:8]
            raise TimeoutError(f"not so within {deadline:.0f} s: {shown}")
        await asyncio.sleep(pause)
