"""What is measured, in which order, with how many bytes, and what is wanted of it; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

Source = Literal["local", "relayed"]
Reading = Literal["zero-copy", "copying"]

OURS, VERIFYING, REFERENCE = "spegel-py", "verifying", "Spegel"
VERIFIED = {OURS: "off", VERIFYING: "all"}
"""Our nodes by what of large blobs they verify. The default, `sample`, is one blob in 32 and any
that is asked for again: clients of a benchmark ask for nothing else.
"""
SOURCES: tuple[Source, ...] = ("local", "relayed")
READINGS: tuple[Reading, ...] = ("zero-copy", "copying")
STREAMS = 8
"""Blobs that stream while manifests are timed."""

MANIFEST_P99 = 10.0
"""Milliseconds at most for a manifest beside eight streams, whatever the disk does."""

PEAK_RSS = 170.0
"""MB at most in memory while 16 blobs stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured: bytes of each blob, rounds, and how long one measurement may last."""

    blobs: dict[str, int]
    """By name: `large` is what one to eight clients fetch, `medium` what more do, `small` what a
    first byte is of.
    """
    clients: tuple[int, ...]
    """How many fetch at the same time."""
    rounds: int
    requests: int
    """Bodies of `large` that a single client fetches in a row."""
    first_bytes: int
    """Requests in a row whose first byte is timed."""
    longest: float
    """Seconds after which streams are cut; what came until then counts."""
    disk_rate: int
    """Bytes per second that the slow disk gives."""


FULL = Scale(
    blobs={"large": 10**9, "medium": 25 * 10**7, "small": 16 * 10**6},
    clients=(1, 4, 16),
    rounds=3,
    requests=3,
    first_bytes=50,
    longest=5.0,
    disk_rate=100 * 10**6,
)
QUICK = Scale(
    blobs={"large": 64 * 10**6, "medium": 16 * 10**6, "small": 8 * 10**6},
    clients=(4, 16),
    rounds=1,
    requests=1,
    first_bytes=5,
    longest=0.5,
    disk_rate=20 * 10**6,
)


@dataclass(frozen=True, slots=True)
class Streams:
    """Clients that each fetch a blob at the same time."""

    source: Source
    clients: int
    reading: Reading

    @property
    def blob(self) -> str:
        """Which blob: 16 clients fetch smaller ones, so that a measurement is about as long."""
        return "large" if self.clients <= STREAMS else "medium"

    @property
    def wanted(self) -> float | None:
        """The most CPU per byte that is wanted of us, as a share of Spegel's, with four clients."""
        if self.clients != 4:
            return None
        if self.source == "local":
            return 1.1
        return 0.35 if self.reading == "zero-copy" else 0.5


@dataclass(frozen=True, slots=True)
class Manifests:
    """One client that asks for a manifest again and again while eight others fetch blobs."""

    source: Source
    is_slow: bool = False
    """Whether the blobs come from a disk that is slow, and not from the page cache."""


@dataclass(frozen=True, slots=True)
class FirstByte:
    """One client that fetches small blobs one after the other, and notes when the first byte
    comes.
    """

    source: Source


Cell = Streams | Manifests | FirstByte


def cells(clients: Sequence[int], *, with_slow_disk: bool) -> list[Cell]:
    """Return all that is measured of every candidate in every round."""
    streams = [
        Streams(source, count, reading)
        for source in SOURCES
        for reading in READINGS
        for count in clients
    ]
    slow = [Manifests("local", is_slow=True)] if with_slow_disk else []
    return [
        *streams,
        *(Manifests(source) for source in SOURCES),
        *slow,
        *(FirstByte(source) for source in SOURCES),
    ]


def turns(
    candidates: Sequence[T], cells: Sequence[Cell], rounds: int
) -> Iterator[tuple[int, Cell, T]]:
    """Yield round, cell and candidate: candidates follow each other within a cell, since noise
    comes and goes within minutes, and another one begins each time, since the first finds other
    caches than the last.
    """
    for number in range(rounds):
        for place, cell in enumerate(cells):
            first = (number + place) % len(candidates)
            for candidate in (*candidates[first:], *candidates[:first]):
                yield number, cell, candidate
