"""The clients, all in one process of their own: `python -m tests.benchmarks.load.generator`.

It reads its task as JSON from stdin, runs for as long as that says, and prints its account as JSON.
Requests are sent at set times, so that a slow node is not asked less.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import mmap
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from tests.benchmarks.figures import latencies

SILENCE = 30.0
"""Seconds without a byte after which a connection counts as broken."""

EXAMPLES = 10
"""Failures that are told in words."""

AGAIN = 5.0
"""Seconds after which a client that failed asks again."""

PIECE = 32 * 1024
"""Bytes that a slow reader takes at a time."""


class Wrong(Exception):
    """A body with other bytes, or another length, than was asked for."""


class Refused(Exception):
    """Another status than 200."""


class Tally:
    """What all clients have seen so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"manifests": [], "layers": []}
        self.late: list[float] = []
        self.is_timing = False
        """False while connections are opened, when there are more requests than later."""
        self.failures: Counter[str] = Counter()
        self.examples: list[str] = []
        self.requests = 0
        self.bytes = 0
        self.open = 0

    def failed(self, error: Exception) -> None:
        """Count a failure, and keep the first few in words."""
        kind = {Wrong: "wrong", Refused: "refused"}.get(type(error), "broken")
        self.failures[kind] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(
                f"{time.strftime('%X')} {kind}: {type(error).__name__} {error}"[:200]
            )


class Connection:
    """One connection to the node; a slow one has small buffers, so that the node notices."""

    def __init__(
        self, tally: Tally, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._tally = tally
        self._reader = reader
        self._writer = writer
        tally.open += 1

    @classmethod
    async def open(
        cls, tally: Tally, to: tuple[str, int], source: str, *, is_slow: bool = False
    ) -> Connection:
        made = socket.socket()
        made.setblocking(False)
        if is_slow:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * PIECE)
        try:
            made.bind((source, 0))
            async with asyncio.timeout(SILENCE):
                await asyncio.get_running_loop().sock_connect(made, to)
                reader, writer = await asyncio.open_connection(
                    sock=made, limit=PIECE if is_slow else 128 * 1024
                )
        except BaseException:
            made.close()
            raise
        return cls(tally, reader, writer)

    def close(self) -> None:
        self._tally.open -= 1
        self._writer.close()

    async def get(self, part: dict[str, Any]) -> None:
        """Ask for a part and hash it. Raises Refused, Wrong, and whatever breaks."""
        length = await self._head(part)
        body = await self._within(self._reader.readexactly(length))
        self._tally.bytes += length
        if length != part["size"] or hashlib.sha256(body).hexdigest() != part["sha256"]:
            raise Wrong(f"{part['path']}: {length} bytes")

    async def read_slowly(self, part: dict[str, Any], rate: int, content: mmap.mmap) -> None:
        """Ask for a part and compare each piece of it as it comes, at this many bytes a second."""
        length = await self._head(part)
        if length != part["size"]:
            raise Wrong(f"{part['path']}: {length} bytes")
        began, received = time.monotonic(), 0
        while received < length:
            await asyncio.sleep(began + received / rate - time.monotonic())
            piece = await self._within(self._reader.read(min(PIECE, length - received)))
            if not piece:
                raise ConnectionError(f"{part['path']}: {received} of {length} bytes")
            if piece != content[received : received + len(piece)]:
                raise Wrong(f"{part['path']}: after {received} bytes")
            received += len(piece)
            self._tally.bytes += len(piece)

    async def _head(self, part: dict[str, Any]) -> int:
        """Send a request and read the head of the answer; return the length of the body."""
        self._tally.requests += 1
        self._writer.write(
            f"GET {part['path']} HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n".encode()
        )
        head = (await self._within(self._reader.readuntil(b"\r\n\r\n"))).decode("latin-1").lower()
        status, *lines = head.split("\r\n")
        length = int(dict(line.split(": ", 1) for line in lines if line)["content-length"])
        if status.split()[1] != "200":
            text = (await self._within(self._reader.readexactly(length))).decode(errors="replace")
            raise Refused(f"{part['path']}: {status.split()[1]} {text}")
        return length

    async def _within(self, reading: Awaitable[bytes]) -> bytes:
        async with asyncio.timeout(SILENCE):
            return await reading


class Clients:
    """All clients of one run."""

    def __init__(self, task: dict[str, Any], content: mmap.mmap) -> None:
        self._plan = task["plan"]
        self._to = (task["host"], task["port"])
        self._sources: list[str] = task["sources"]
        self._parts = task["content"]
        self._content = content
        self._random = random.Random("load")
        self.tally = Tally()

    def all(self, ramp: float) -> list[Awaitable[None]]:
        """Return every client, each of which begins at some time within `ramp` seconds."""
        kinds: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (self._plan["pullers"], self._puller),
            (self._plan["slow"], self._slow),
            (self._plan["idle"], self._idle),
            (self._plan["visitors"], self._visitor),
        ]
        return [
            self._begin(
                client, self._sources[number % len(self._sources)], self._random.uniform(0, ramp)
            )
            for count, client in kinds
            for number in range(count)
        ]

    async def _begin(
        self, client: Callable[[str], Awaitable[None]], source: str, wait: float
    ) -> None:
        """Run a client for ever; one that fails begins anew."""
        await asyncio.sleep(wait)
        while True:
            try:
                await client(source)
            except (
                OSError,
                EOFError,
                Wrong,
                Refused,
                asyncio.LimitOverrunError,
                LookupError,
                ValueError,
            ) as error:
                self.tally.failed(error)
                await asyncio.sleep(AGAIN)

    async def _puller(self, source: str) -> None:
        pause = self._plan["pullers"] / self._plan["pulls"]
        await self._keep_asking(source, ("manifests", "layers"), pause)

    async def _idle(self, source: str) -> None:
        await self._keep_asking(source, ("manifests",), self._plan["idle_pause"])

    async def _keep_asking(self, source: str, kinds: tuple[str, ...], pause: float) -> None:
        connection = await Connection.open(self.tally, self._to, source)
        try:
            due = time.monotonic()
            while True:
                await self._ask(connection, self._random.choice(kinds))
                due = max(due + pause * self._random.uniform(0.8, 1.2), time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                if self.tally.is_timing:
                    self.tally.late.append(time.monotonic() - due)
        finally:
            connection.close()

    async def _visitor(self, source: str) -> None:
        connection = await Connection.open(self.tally, self._to, source)
        try:
            await self._ask(connection, self._random.choice(("manifests", "layers")))
            await asyncio.sleep(self._plan["visit"] * self._random.uniform(0.5, 1.5))
        finally:
            connection.close()

    async def _slow(self, source: str) -> None:
        connection = await Connection.open(self.tally, self._to, source, is_slow=True)
        try:
            while True:
                await connection.read_slowly(
                    self._parts["large"], self._plan["slow_rate"], self._content
                )
        finally:
            connection.close()

    async def _ask(self, connection: Connection, kind: str) -> None:
        began = time.perf_counter()
        await connection.get(self._random.choice(self._parts[kind]))
        if self.tally.is_timing:
            self.tally.seconds[kind].append(time.perf_counter() - began)


async def _run(task: dict[str, Any], content: mmap.mmap) -> dict[str, Any]:
    clients = Clients(task, content)
    tally = clients.tally
    running = [asyncio.ensure_future(client) for client in clients.all(task["ramp"])]
    end = time.monotonic() + task["plan"]["seconds"]
    counted: list[int] = []
    await asyncio.sleep(2 * task["ramp"])
    tally.is_timing = True
    while time.monotonic() < end:
        counted.append(tally.open)
        if ended := [one for one in running if one.done()]:
            ended[0].result()  # no client ends by itself: this raises
        await asyncio.sleep(min(1.0, task["ramp"]))
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {
        "requests": tally.requests,
        "megabytes": tally.bytes / 1e6,
        "manifests": latencies(tally.seconds["manifests"]),
        "layers": latencies(tally.seconds["layers"]),
        "samples": {kind: len(seconds) for kind, seconds in tally.seconds.items()},
        "late": latencies(tally.late),
        "open": sum(counted) / max(1, len(counted)),
        "cpu": time.process_time(),
        "examples": tally.examples,
        **{kind: tally.failures[kind] for kind in ("wrong", "broken", "refused")},
    }


def main() -> None:
    """Run the task that stdin has."""
    task = json.loads(sys.stdin.read())
    with (
        Path(task["large"]).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        print(json.dumps(uvloop.run(_run(task, content))))


if __name__ == "__main__":
    main()
