"""A runtime as the benchmarks need one: a blocking HTTP/1.1 client on one connection that it
keeps.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_PIECE = 1 << 20


class Client:
    """One kept connection to a port of this machine."""

    def __init__(self, port: int, *, timeout: float = 30.0, host: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)
        self._buffer = bytearray(_PIECE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> tuple[int, int]:
        """Return the status and the size of the body, which is read to its end and thrown away."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        size = 0
        while count := answer.readinto(self._buffer):
            size += count
        return answer.status, size

    def read(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@dataclass(frozen=True, slots=True)
class Timed:
    """One request: its status, and the seconds until its body had ended."""

    status: int
    seconds: float


async def time_each(port: int, paths: Sequence[str]) -> list[Timed]:
    """Ask for each path in turn on one connection."""

    def ask() -> list[Timed]:
        with Client(port) as client:
            return [_time(client, path) for path in paths]

    return await asyncio.to_thread(ask)


def _time(client: Client, path: str) -> Timed:
    start = time.perf_counter()
    status, _ = client.get(path)
    return Timed(status, time.perf_counter() - start)


async def answers(port: int, path: str, *, host: str = "127.0.0.1") -> bool:
    """Say whether a path answers with 200 now."""

    def ask() -> bool:
        try:
            with Client(port, timeout=2.0, host=host) as client:
                return client.get(path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    return await asyncio.to_thread(ask)


async def records_held(metrics_port: int) -> float:
    """Return how many records of other nodes a node holds, as its metrics page says."""
    return await metric(metrics_port, "spegel_records_held")


async def metric(metrics_port: int, name: str) -> float:
    """Return the value of a metric without labels, as a node's metrics page says."""

    def ask() -> bytes:
        with Client(metrics_port) as client:
            return client.read("/metrics")[1]

    page = (await asyncio.to_thread(ask)).decode()
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} "))
