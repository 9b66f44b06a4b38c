"""An event loop that stands still is seen from outside."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from spegel_py.supervision.aside import Aside
from spegel_py.supervision.loop import LoopWatch
from tests.processes import until


async def test_a_stall_is_seen_once_and_dated() -> None:
    """A loop that is held up lags by as much; the stall is told once it is over, with its beginning."""
    lags: list[float] = []

    async def has_lagged() -> bool:
        return bool(lags)

    with LoopWatch(lagged=lags.append, stall=0.4) as watch:
        await until(has_lagged)
        assert watch.take_stall() is None
        began = time.monotonic()
        time.sleep(1.0)  # this is the fault
        lags.clear()
        await until(has_lagged)
        since = watch.take_stall()
        assert since is not None
        assert began <= since < began + 1.0
        assert max(lags) >= 0.4
        assert watch.take_stall() is None


async def test_what_blocks_aside_holds_up_nobody(tmp_path: Path) -> None:
    """While one function blocks its thread, the loop goes on; errors come back to who asked."""
    with Aside() as aside:
        ticks = 0
        slow = asyncio.create_task(aside.run(lambda: time.sleep(0.3)))
        while not slow.done():
            ticks += 1
            await asyncio.sleep(0.01)
        assert ticks > 3
        with pytest.raises(FileNotFoundError):
            await aside.run((tmp_path / "absent").read_bytes)
