"""Of downloads that were interrupted, a thousand of them, nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
import uvloop

from spegel_py.transfer import sender
from spegel_py.transfer.pipes import MAX_IDLE_PIPES
from tests.contract.serving import WAYS, Server, Way, local, relayed, serving
from tests.support.processes import until
from tests.unit.mirror.peers import FakePeer

DATA = bytes(4_000_000)
STALLS_AT = 2_000_000
AT_ONCE = 20

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.mark.parametrize(
    ("way", "loop", "downloads"),
    [
        ("sendfile", "uvloop", 1000),  # as a node runs
        ("splice", "uvloop", 1000),
        ("sendfile", "asyncio", 200),
        ("splice", "asyncio", 200),
        ("file copied", "uvloop", 200),
        ("peer copied", "uvloop", 200),
        ("file over TLS", "uvloop", 200),
        ("peer with TLS over TLS", "uvloop", 200),
    ],
)
def test_nothing_is_lost_in_interrupted_downloads(
    way: str, loop: str, downloads: int, tmp_path: Path
) -> None:
    """However clients leave, and wherever: no descriptor is left of a transfer, no pipe and thread
    that is not kept for the next one, and none of those at the end. In a process of its own: what
    other tests left here may go any time.
    """
    (tmp_path / "content").write_bytes(DATA)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(_measure, way, loop, downloads, tmp_path).result()


def _measure(way: str, loop: str, downloads: int, folder: Path) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(_interrupt(WAYS[way], folder, downloads))


async def _interrupt(way: Way, folder: Path, downloads: int) -> None:
    await _run(
        way, folder, 20
    )  # event loops open what they need for themselves when it is first needed
    before = _held()
    await _run(way, folder, downloads)

    async def is_over() -> bool:
        return _held() == before

    await _soon(is_over, lambda: f"{_held()} is held, and was not before: {before}")


async def _run(way: Way, folder: Path, downloads: int) -> None:
    rng = random.Random(7)
    async with AsyncExitStack() as stack:
        # a half of the downloads waits for the stalled peer when its client leaves
        peer = FakePeer(DATA, cut_at=STALLS_AT, ending="stall")
        sending = relayed(way, peer, folder) if way.is_relayed else local(way, folder / "content")
        server = await stack.enter_async_context(
            serving(way, await stack.enter_async_context(sending), len(DATA), folder)
        )
        sockets = _held().others["socket"]
        await _download(server, rng, AT_ONCE)  # the first of them starts what then stays

        async def is_over() -> bool:
            return len(server.ended) == AT_ONCE and _held().others["socket"] == sockets

        await _soon(
            is_over, lambda: f"{len(server.ended)} of {AT_ONCE} have ended, {_held()} is held"
        )
        idle = _held()
        await _download(server, rng, downloads)

        async def is_back() -> bool:
            now = _held()
            kept = (
                now.pipes - idle.pipes <= 2 * MAX_IDLE_PIPES
                and now.threads - idle.threads <= sender.THREADS
            )
            return len(server.ended) == AT_ONCE + downloads and kept and now.others == idle.others

        await _soon(
            is_back,
            lambda: (
                f"{len(server.ended) - AT_ONCE} of {downloads} have ended, {_held()} is held, "
                f"{idle} before"
            ),
        )


async def _soon(condition: Callable[[], Awaitable[bool]], failure: Callable[[], str]) -> None:
    try:
        await until(condition, deadline=30)
    except TimeoutError:
        raise AssertionError(failure()) from None


async def _download(server: Server, rng: random.Random, count: int) -> None:
    for _ in range(count // AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(
                    _break_off(
                        server.port,
                        rng.choice((rng.randrange(STALLS_AT), STALLS_AT - 1)),
                        rng.random() < 0.5,
                    )
                )


async def _break_off(port: int, after: int, is_reset: bool) -> None:
    """Download so many bytes, and leave with a FIN or an RST."""
    loop, got = asyncio.get_running_loop(), 0
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while got <= after:
            got += len(await loop.sock_recv(client, 1 << 20))
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True)
class Held:
    """What this process holds: ends of pipes, threads, and other descriptors by kind."""

    pipes: int
    threads: int
    others: Counter[str]


def _held() -> Held:
    kinds: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            kinds[str(entry.readlink()).partition(":")[0]] += 1
        except FileNotFoundError:  # the listing's own
            continue
    return Held(kinds.pop("pipe", 0), threading.active_count(), kinds)
