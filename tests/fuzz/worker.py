"""Fuzzes one target for a while, in a process of its own.

Inputs are made by Hypothesis. Where atheris can be imported, it has the second half of the time: it
changes inputs by which lines of the program they reach.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.mutations import LONGEST, inputs
from tests.fuzz.target import CORPUS, Check, Crash, Target, Watchdog, attempt

BATCH = 200
"""Inputs that Hypothesis makes in one go; each batch begins anew, with another seed."""

MOST_MEMORY = 6 << 30
"""Bytes of address space that a process may have: an input that wants more is a crash."""

GROWTH = 600 << 20
"""Bytes by which a process may grow after its first tenth of the time; the engines keep inputs."""

SHRINKING = 20.0
"""Seconds in which a crash's input is made smaller."""


@dataclass
class Outcome:
    """What became of a target: crashes by their kind, the smallest input of each."""

    name: str
    engine: str = "hypothesis"
    inputs: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    crashes: dict[str, Crash] = field(default_factory=dict)

    def add(self, crash: Crash) -> None:
        """Keep a crash if it is the first or the smallest of its kind."""
        known = self.crashes.get(crash.kind)
        if known is None or len(crash.data) < len(known.data):
            self.crashes[crash.kind] = crash


def has_atheris() -> bool:
    """Return True if atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(fuzzed: Target, *, seconds: float, number: int, done: Callable[[Outcome], None]) -> None:
    """Fuzz for so many seconds, and pass what came of it to `done`. This ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    outcome, began = Outcome(fuzzed.name), time.monotonic()
    watchdog, memory = Watchdog(), _Memory(began + seconds / 10)
    with fuzzed.open() as check:

        def once(data: bytes) -> None:
            with watchdog.looking():
                crash = attempt(fuzzed, check, data)
            outcome.inputs += 1
            if crash is not None:
                outcome.add(crash)
            elif grown := memory.grown():
                outcome.add(Crash(b"", "memory", f"{grown >> 20} MiB more than at the beginning"))

        def finish() -> None:
            outcome.seconds, outcome.cpu = time.monotonic() - began, time.process_time()
            for crash in list(outcome.crashes.values()):
                outcome.add(shrunk(fuzzed, check, crash))
            done(outcome)

        for path in fuzzed.corpus():
            once(path.read_bytes())
        for example in fuzzed.examples:
            once(example)
        if not has_atheris():
            _with_hypothesis(fuzzed, once, number, began + seconds)
            finish()
        else:
            _with_hypothesis(fuzzed, once, number, began + seconds / 2)
            outcome.engine = "hypothesis, atheris"
            _with_atheris(fuzzed, once, number, began + seconds, finish)


def _with_hypothesis(
    fuzzed: Target, once: Callable[[bytes], None], number: int, end: float
) -> None:
    batch = 0
    while time.monotonic() < end:
        batch += 1

        @seed(number * 1_000_003 + batch)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs(fuzzed.examples, fuzzed.structured))
        def run(data: bytes) -> None:
            if time.monotonic() < end:
                once(data)

        run()


def _with_atheris(
    fuzzed: Target,
    once: Callable[[bytes], None],
    number: int,
    end: float,
    finish: Callable[[], None],
) -> None:
    import atheris

    def run(data: bytes) -> None:
        if time.monotonic() < end:
            once(data)
        else:
            finish()
            os._exit(0)  # libFuzzer has no other end that lets its caller go on

    with tempfile.TemporaryDirectory(prefix="spegel-py-atheris-") as folder:
        known = [*fuzzed.examples, *(path.read_bytes() for path in fuzzed.corpus())]
        for at, data in enumerate(known):
            (Path(folder) / str(at)).write_bytes(data)
        options = (
            f"-seed={number % 2**31 or 1}",
            f"-max_len={LONGEST}",
            "-rss_limit_mb=0",  # memory and time are looked at here
            "-timeout=1000000",
            f"-artifact_prefix={folder}/",
            "-verbosity=0",
        )
        atheris.Setup([sys.argv[0], *options, folder], run)
        atheris.Fuzz()


class _Memory:
    """Looks once in a while how much the process has grown since `start`."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._next = start
        self._before: int | None = None

    def grown(self) -> int:
        """Return by how many bytes, if that is more than it may be; else 0."""
        if (now := time.monotonic()) < self._next:
            return 0
        self._next = now + 1
        size = psutil.Process().memory_info().rss
        if self._before is None:
            self._before = size
        return size - self._before if size - self._before > GROWTH else 0


def shrunk(fuzzed: Target, check: Check, crash: Crash) -> Crash:
    """Return a crash of the same kind whose input is as small as some seconds allow."""
    end, size = time.monotonic() + SHRINKING, max(1, len(crash.data) // 2)
    while size:
        at, before = 0, len(crash.data)
        while at < len(crash.data):
            if time.monotonic() > end:
                return crash
            tried = attempt(fuzzed, check, crash.data[:at] + crash.data[at + size :])
            if tried is not None and tried.kind == crash.kind:
                crash = tried
            else:
                at += size
        if len(crash.data) == before:
            size //= 2
    return crash


def keep(name: str, crash: Crash) -> Path:
    """Write a crash's input into the corpus, and return its file."""
    words = re.sub(r"[^a-z0-9]+", "-", crash.kind.lower()).strip("-")[:80]
    path = CORPUS / name / f"{words}-{hashlib.sha256(crash.data).hexdigest()[:8]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(crash.data)
    return path


def fresh_seed() -> int:
    """Return a seed that was not used before, as far as can be told."""
    return random.SystemRandom().randrange(1, 2**31)
