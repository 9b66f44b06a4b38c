"""A process with its children: what they use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

_SCHEDULED = 2
"""CPUCLOCK_SCHED of the kernel's include/linux/posix-timers.h: user and system time, of all threads
that ever were.
"""


@dataclass(frozen=True, slots=True)
class Tree:
    """The processes of one server, which are expected to stay."""

    pids: tuple[int, ...]

    @classmethod
    def of(cls, pid: int) -> Self:
        return cls((pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))))

    def cpu_seconds(self) -> float:
        """Return user and system time, in nanoseconds' steps: those of /proc/PID/stat are too
        coarse here.
        """
        return sum(time.clock_gettime(cpu_clock(pid)) for pid in self.pids)

    def forget_peak(self) -> None:
        """Have the peak of memory begin again at what is used now (proc(5), clear_refs)."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> float:
        """Return the most that was in memory, in MB; pages that processes share count for each."""
        return sum(parse_peak(Path(f"/proc/{pid}/status").read_text()) for pid in self.pids)


def cpu_clock(pid: int) -> int:
    """Return the clock of a process's CPU time, as clock_getcpuclockid(3) does."""
    return (~pid << 3) | _SCHEDULED


def parse_peak(status: str) -> float:
    """Return VmHWM in the text of /proc/PID/status, in MB (1,000,000 bytes)."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
