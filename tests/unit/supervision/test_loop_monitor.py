"""An event loop that stands still is seen from outside."""

from __future__ import annotations

import time

from spegel_py.supervision.loop_monitor import LoopMonitor
from tests.support.processes import until


async def test_a_stall_is_seen_once_and_dated() -> None:
    """A loop that is held up lags by as much; the stall is told once it is over, with its
    beginning.
    """
    lags: list[float] = []

    async def has_lagged() -> bool:
        return bool(lags)

    with LoopMonitor(on_lag=lags.append, stall=0.4) as watch:
        await until(has_lagged)
        assert watch.pop_stall() is None
        began = time.monotonic()
        time.sleep(1.0)  # this is the fault
        lags.clear()
        await until(has_lagged)
        since = watch.pop_stall()
        assert since is not None
        assert began <= since < began + 1.0
        assert max(lags) >= 0.4
        assert watch.pop_stall() is None
