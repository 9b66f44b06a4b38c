"""Waiting on the event loop until a descriptor is ready; for how long is the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spegel_py.transfer.base import ClientGone, Loan


async def readable(fd: int, timeout: float) -> None:
    """Return once there is something to read, or an end to see. Raises TimeoutError after that many seconds."""
    loop = asyncio.get_running_loop()
    await _ready(fd, loop.add_reader, loop.remove_reader, timeout)


async def writable(loan: Loan) -> None:
    """Return once the client's socket takes bytes again. Raises ClientGone when its patience is over."""
    loop = asyncio.get_running_loop()
    try:
        await _ready(loan.fd, loop.add_writer, loop.remove_writer, loan.patience)
    except TimeoutError as error:
        raise ClientGone("the client stopped reading") from error


async def _ready(
    fd: int, add: Callable[[int, Callable[[], None]], None], remove: Callable[[int], object], timeout: float
) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        async with asyncio.timeout(timeout):
            await ready.wait()
    finally:
        remove(fd)
