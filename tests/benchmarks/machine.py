"""The machine under the benchmarks: what it is, how busy it is, and what one process of it uses."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import spegel_py

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "aiohttp",
    "cryptography",
    "grpclib",
    "libp2p",
    "protobuf",
    "prometheus-client",
    "structlog",
    "trio",
    "uvloop",
)
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What /proc/PID/smaps_rollup says, in MB (1,000,000 bytes)."""

    rss: float
    """All pages that are in memory, those shared with others included."""
    pss: float
    """The same with every shared page divided by the number of its users."""
    anonymous: float
    """Heap, stacks and arenas: what no file backs."""


def conditions() -> dict[str, Any]:
    """Return what a figure depends on and a reader of it must know."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "load average": [round(load, 2) for load in os.getloadavg()],
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "spegel-py": (
            f"{spegel_py.__version__} "
            f"{_output('git', '-C', str(ROOT), 'describe', '--always', '--dirty')}"
        ),
        "containerd": _output("containerd", "--version") or "none",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def cpu_model(cpuinfo: str) -> str:
    """Return the name of the first processor in the text of /proc/cpuinfo."""
    fields = (line.partition(":") for line in cpuinfo.splitlines())
    return next(
        (value.strip() for name, _, value in fields if name.strip() in ("model name", "Model")),
        "unknown",
    )


def memory(pid: int) -> Memory:
    """Return what a process has in memory now."""
    return parse_memory(Path(f"/proc/{pid}/smaps_rollup").read_text())


def parse_memory(rollup: str) -> Memory:
    """Return what the text of /proc/PID/smaps_rollup says."""
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    rss, pss, anonymous = (
        int(fields[name].split()[0]) * 1024 / 1e6 for name in ("Rss", "Pss", "Anonymous")
    )
    return Memory(rss=rss, pss=pss, anonymous=anonymous)


def threads(pid: int) -> int:
    """Return the number of threads of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def descriptors(pid: int) -> int:
    """Return the number of descriptors that a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have used, in steps of a tick (10 ms)."""
    return parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text()) / TICK


def parse_cpu_ticks(stat: str) -> int:
    """Return utime + stime in the text of /proc/PID/stat; the name before them may hold blanks and
    brackets.
    """
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Meter:
    """Finds how many cores others used while it ran; children must have ended before it is read."""

    def __init__(self) -> None:
        self._busy, self._own, self._start = _busy_seconds(), _own_seconds(), _uptime()

    def read(self) -> tuple[float, float]:
        """Return the seconds since the start and the cores that processes other than ours and its
        children used.
        """
        seconds = _uptime() - self._start
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return seconds, max(0.0, others / seconds) if seconds else 0.0


def parse_busy_ticks(lines: Iterable[str]) -> int:
    """Return what all processors spent on anything but idling and waiting for disks, from
    /proc/stat.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, next(iter(lines)).split()[1:9]
    )
    return user + nice + system + irq + softirq + steal


def _busy_seconds() -> float:
    return parse_busy_ticks(Path("/proc/stat").read_text().splitlines()) / TICK


def _own_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _output(*command: str) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=5
        ).stdout.strip()
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
