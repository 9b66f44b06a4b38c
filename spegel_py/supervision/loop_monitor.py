"""Measures the lag of the event loop from a thread: a loop that stands still cannot see it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger(__name__)

BEAT = 0.5
"""Seconds between two rounds that are timed: a quarter of a stall."""

STALL = 2.0
"""Seconds that one round takes if the loop counts as stalled. Transfers wait that long too."""

FRAMES = 4
"""Innermost frames of the loop's thread that are logged for a stall."""


class LoopMonitor:
    """The lag of the running event loop; a context manager, entered on that loop.

    `on_lag` is called with the lag of every round, in seconds.
    """

    def __init__(
        self, *, on_lag: Callable[[float], None] = lambda seconds: None, stall: float = STALL
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._on_lag = on_lag
        self._stall = stall
        self._asked: float | None = None
        self._last = 0.0
        self._stalled_since: float | None = None
        self._end = threading.Event()

    def __repr__(self) -> str:
        return f"<LoopMonitor lag={self.lag():.3f}>"

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="loop-watch", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()

    def lag(self) -> float:
        """Return the seconds of the last round, or of the current one if it takes longer."""
        asked = self._asked
        return self._last if asked is None else max(self._last, time.monotonic() - asked)

    def pop_stall(self) -> float | None:
        """Return when the last stall began (monotonic), once for each stall; else None."""
        since, self._stalled_since = self._stalled_since, None
        return since

    def _run(self) -> None:
        is_logged = False
        while not self._end.wait(BEAT):
            asked = self._asked
            if asked is None:
                is_logged = False
                self._asked = time.monotonic()
                with suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._beat)
            elif not is_logged and time.monotonic() - asked >= self._stall:
                is_logged = True
                log.error(
                    "event loop stalled",
                    seconds=round(time.monotonic() - asked, 1),
                    where=self._where(),
                )

    def _beat(self) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        self._last = time.monotonic() - asked
        self._on_lag(self._last)
        if self._last >= self._stall:
            self._stalled_since = asked

    def _where(self) -> list[str]:
        frame = sys._current_frames().get(self._thread_id)
        frames = traceback.extract_stack(frame)[-FRAMES:] if frame else []
        return [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
