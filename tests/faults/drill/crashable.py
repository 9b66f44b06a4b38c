"""A node whose libp2p side can be crashed: `python -m tests.faults.drill.crashable registry ...`.

It is the real node, save that its libp2p side ends with an exception at SIGUSR1, and hangs for
ever at SIGUSR2.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from spegel_py import cli, node
from spegel_py.config import Config
from spegel_py.routing.libp2p.router import Libp2pRouter

CRASH, HANG = signal.SIGUSR1, signal.SIGUSR2

_running = node.running


@asynccontextmanager
async def _crashable(config: Config) -> AsyncIterator[Libp2pRouter]:
    async with _running(config) as router:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()

        def start(harm: Coroutine[None, None, None]) -> None:
            task = asyncio.ensure_future(harm)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(CRASH, lambda: start(router.crash()))
        loop.add_signal_handler(HANG, lambda: start(router.hang(threading.Event().wait)))
        yield router


if __name__ == "__main__":
    node.running = _crashable
    raise SystemExit(cli.main())
