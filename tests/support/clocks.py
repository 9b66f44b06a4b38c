"""A wall clock of one process that a test sets, by a library that is loaded before the program."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.processes import run


class SettableClock:
    """The clock of the processes that are started with `prefix`; its files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "clock.so"
        self._ahead = folder / "ahead"
        self.prefix = ("env", f"LD_PRELOAD={self._library}", f"CLOCK_AHEAD={self._ahead}")

    async def build(self) -> None:
        """Build the library; the clock is right at first."""
        source = Path(__file__).with_name("clock.c")
        await run("gcc", "-shared", "-fPIC", "-O2", "-o", str(self._library), str(source))
        self._ahead.write_bytes(struct.pack("q", 0))

    def set(self, seconds: int) -> None:
        """Set the clock ahead by this many seconds."""
        with self._ahead.open("r+b") as file:
            file.write(struct.pack("q", seconds))
