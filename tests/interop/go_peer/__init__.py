"""A node of go-libp2p and its DHT, which is built with Go and driven over its standard input."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[3] / ".ci" / "go-peer"

GO_IS_MISSING = shutil.which("go") is None and os.environ.get("CI") != "true"
"""Whether the tests are skipped for want of Go; in CI they fail instead."""


class GoPeerError(Exception):
    """The peer answered a command with an error."""


class GoPeer:
    """The process, and its id and port."""

    def __init__(self, process: asyncio.subprocess.Process, started: dict[str, Any]) -> None:
        self._process = process
        self.id = str(started["id"])
        self.port = int(str(started["addresses"][0]).rpartition("/")[2])

    async def ask(self, *words: str) -> dict[str, Any]:
        """Return the answer to a command. Raises GoPeerError."""
        assert self._process.stdin
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        answer = await _answer(self._process)
        if "error" in answer:
            raise GoPeerError(f"{words}: {answer['error']}")
        return answer

    async def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        await self._process.wait()


async def build() -> str:
    """Return the path of the program."""
    process = await asyncio.create_subprocess_exec(str(BUILD), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, "the Go peer cannot be built; see above"
    return out.decode().strip()


@asynccontextmanager
async def running(program: str, *, swarm_key: Path | None = None) -> AsyncIterator[GoPeer]:
    """Run a peer on loopback, on a port that is free; with a key, in its private network."""
    process = await asyncio.create_subprocess_exec(
        program,
        "/ip4/127.0.0.1/tcp/0",
        *([] if swarm_key is None else [str(swarm_key)]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield GoPeer(process, await _answer(process))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _answer(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    assert line, "the Go peer has ended"
    found: dict[str, Any] = json.loads(line)
    return found
