"""Watches from a thread of its own how long the event loop takes to come round: it cannot see itself stand still."""

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
"""Seconds that one round takes when the loop counts as stalled: transfers wait that long, too."""
FRAMES = 4
"""Innermost frames of the loop's thread that are logged of a stall."""


class LoopWatch:
    """The lag of the running loop. Use it as a context manager, on that loop; `lagged` hears every round's lag."""

    def __init__(
        self, *, lagged: Callable[[float], None] = lambda seconds: None, stall: float = STALL
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._lagged = lagged
        self._stall = stall
        self._asked: float | None = None
        self._last = 0.0
        self._stalled_since: float | None = None
        self._end = threading.Event()

    def __repr__(self) -> str:
        return f"<LoopWatch lag={self.lag():.3f}>"

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
        """Return the seconds that the last round took, or the present one if it takes longer."""
        asked = self._asked
        return self._last if asked is None else max(self._last, time.monotonic() - asked)

    def take_stall(self) -> float | None:
        """Return when the last stall began, once it has been seen and not been taken yet (monotonic)."""
        since, self._stalled_since = self._stalled_since, None
        return since

    def _run(self) -> None:
        said = False
        while not self._end.wait(BEAT):
            asked = self._asked
            if asked is None:
                said = False
                self._asked = time.monotonic()
                with suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._beat)
            elif not said and time.monotonic() - asked >= self._stall:
                said = True
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
        self._lagged(self._last)
        if self._last >= self._stall:
            self._stalled_since = asked

    def _where(self) -> list[str]:
        frame = sys._current_frames().get(self._thread_id)
        frames = traceback.extract_stack(frame)[-FRAMES:] if frame else []
        return [f"{each.filename}:{each.lineno} {each.name}" for each in frames]
