"""One measurement of one candidate: clients in processes of their own, the server's CPU and memory
from outside.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.dataplane import slow_disk
from tests.benchmarks.dataplane.candidates import Candidate
from tests.benchmarks.dataplane.content import Content
from tests.benchmarks.dataplane.plan import (
    STREAMS,
    Cell,
    FirstByte,
    Manifests,
    Scale,
    Source,
    Streams,
)
from tests.benchmarks.figures import percentile

_PAUSE = 0.005
"""Seconds between two requests for a manifest: some hundred answers while the blobs stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What measurements need to know; `disk` is the file of the large blob that the candidates
    hold.
    """

    scale: Scale
    content: Content
    disk: Path

    async def measure(self, cell: Cell, candidate: Candidate) -> dict[str, float]:
        """Return the values of one cell, by name."""
        match cell:
            case Streams():
                return await self._streams(cell, candidate)
            case Manifests(is_slow=True):
                slow_disk.forget(self.disk)
                try:
                    with slow_disk.limit(candidate.tree().pids, self.disk, self.scale.disk_rate):
                        return await self._manifests(cell, candidate)
                finally:
                    await asyncio.to_thread(slow_disk.remember, self.disk)
            case Manifests():
                return await self._manifests(cell, candidate)
            case FirstByte():
                path = self.content.blob(cell.source, "small")
                found = await _client(
                    candidate,
                    do="first_byte",
                    path=path,
                    requests=self.scale.first_bytes,
                    is_copying=False,
                )
                return _times(found["times"])

    async def _streams(self, cell: Streams, candidate: Candidate) -> dict[str, float]:
        tree = candidate.tree()
        tree.forget_peak()
        before = tree.cpu_seconds()
        found = await self._fetch(
            candidate,
            cell.source,
            cell.blob,
            starts=[0] * cell.clients,
            requests=self.scale.requests if cell.clients == 1 else 1,
            is_copying=cell.reading == "copying",
        )
        used, gigabytes = tree.cpu_seconds() - before, found["bytes"] / 1e9
        return {
            "cpu": used / gigabytes if gigabytes else math.nan,
            "rate": gigabytes / found["seconds"],
            "peak": tree.peak(),
            "refused": found["refused"],
        }

    async def _manifests(self, cell: Manifests, candidate: Candidate) -> dict[str, float]:
        """Time manifests beside streams; from a slow disk they read different parts of the blob."""
        apart = self.scale.blobs["large"] // STREAMS if cell.is_slow else 0
        starts = [number * apart for number in range(STREAMS)]
        probe = await _start(
            candidate, do="probe", path=self.content.manifest(), pause=_PAUSE, is_copying=True
        )
        try:
            found = await self._fetch(
                candidate, cell.source, "large", starts=starts, requests=1, is_copying=False
            )
        finally:
            answer = await _result(probe)
        return _times(answer["times"]) | {"rate": found["bytes"] / 1e9 / found["seconds"]}

    async def _fetch(
        self,
        candidate: Candidate,
        source: Source,
        blob: str,
        *,
        starts: list[int],
        requests: int,
        is_copying: bool,
    ) -> dict[str, Any]:
        return await _client(
            candidate,
            do="fetch",
            path=self.content.blob(source, blob),
            starts=starts,
            requests=requests,
            is_copying=is_copying,
            longest=self.scale.longest,
        )


def _times(seconds: list[float]) -> dict[str, float]:
    return {
        "p50": percentile(seconds, 0.5) * 1000,
        "p99": percentile(seconds, 0.99) * 1000,
        "count": len(seconds),
    }


async def _client(candidate: Candidate, **task: Any) -> dict[str, Any]:
    return await _result(await _start(candidate, **task))


async def _start(candidate: Candidate, **task: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "tests.benchmarks.dataplane.client",
            json.dumps(task | {"address": candidate.address}),
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=machine.ROOT,
    )


async def _result(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Close the client's stdin and return what it found."""
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate(b"")  # which closes its stdin
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise AssertionError(f"a client failed: {errors.decode(errors='replace')[-2000:]}")
    found: dict[str, Any] = json.loads(output)
    return found
