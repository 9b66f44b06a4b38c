"""Fuzzes every parser of bytes from outside, and prints what was found: `python -m tests.fuzz`.

The exit status is 1 if there is a crash. Its input is then in the corpus, which the tests replay.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.fuzz.target import Crash
from tests.fuzz.worker import Outcome, fresh_seed, fuzz, has_atheris, keep

JOBS = 2 * (os.cpu_count() or 1)
"""Targets that are fuzzed at the same time: those with servers wait now and then."""

GRACE = 180.0
"""Seconds that a target may take longer than it was given: crashes are made smaller at the end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz the targets asked for; returns the exit status."""
    options = _options(arguments)
    targets = _load()
    if unknown := set(options.only or ()) - targets.keys():
        raise SystemExit(
            f"no such targets: {', '.join(sorted(unknown))}; there are: {', '.join(targets)}"
        )
    chosen = [each for name, each in targets.items() if not options.only or name in options.only]
    seconds = options.seconds if options.minutes is None else 60 * options.minutes
    outcomes = _run(chosen, seconds=seconds, seed=options.seed)
    print(markdown(outcomes, options.seed))
    for outcome in outcomes:
        for crash in outcome.crashes.values():
            where = f"{keep(outcome.name, crash)}\n" if crash.data else ""
            print(f"\n{outcome.name}: {crash.kind}\n{where}{crash.text[:8000]}")
    return 1 if any(outcome.crashes for outcome in outcomes) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz what comes from outside."
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="minutes for each target")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="N", help="seconds for each target, else 60"
    )
    parser.add_argument(
        "--only", action="append", metavar="TARGET", help="fuzz this target; repeatable"
    )
    parser.add_argument(
        "--seed", type=int, default=fresh_seed(), metavar="N", help="chooses the inputs"
    )
    return parser.parse_args(arguments)


def _load() -> dict[str, Any]:
    """Return all targets by name; atheris has to see the program's modules as they are loaded."""
    instrumented: Any = nullcontext()
    if has_atheris():
        import atheris

        instrumented = atheris.instrument_imports(include=["spegel_py"])
    with instrumented:
        from tests.fuzz.targets import ALL
    return {each.name: each for each in ALL}


@dataclass
class _Job:
    """A target that is being fuzzed by a process."""

    name: str
    process: Any
    result: Connection
    end: float
    log: Any

    def outcome(self) -> Outcome:
        """Return what the process told, or that it ended without a word."""
        try:
            found: Outcome | None = self.result.recv() if self.result.poll() else None
        except EOFError:
            found = None
        if self.process.is_alive() and found is None:
            self.process.kill()
        self.process.join()
        if found is None:
            self.log.seek(0)
            said = self.log.read()[-8000:].decode(errors="replace")
            crash = Crash(b"", "ended", f"exit status {self.process.exitcode}\n{said}")
            found = Outcome(self.name, crashes={crash.kind: crash})
        return found


def _run(targets: Sequence[Any], *, seconds: float, seed: int) -> list[Outcome]:
    """Fuzz targets in processes of their own, JOBS at a time; they are forked, which saves them the
    imports.
    """
    waiting, running, outcomes = list(targets), list[_Job](), list[Outcome]()
    while waiting or running:
        while waiting and len(running) < JOBS:
            running.append(_start(waiting.pop(0), seconds, seed))
        now = time.monotonic()
        ready = wait(
            [job.result for job in running], timeout=max(0.1, min(job.end for job in running) - now)
        )
        for job in [job for job in running if job.result in ready or time.monotonic() > job.end]:
            running.remove(job)
            outcomes.append(job.outcome())
            found = outcomes[-1]
            print(
                f"{found.name}: {found.inputs} inputs, {len(found.crashes)} crashes",
                file=sys.stderr,
                flush=True,
            )
    order = [target.name for target in targets]
    return sorted(outcomes, key=lambda outcome: order.index(outcome.name))


def _start(target: Any, seconds: float, seed: int) -> _Job:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the job
    process = multiprocessing.get_context("fork").Process(
        target=_work, args=(target, seconds, seed, theirs, log.fileno()), daemon=True
    )
    process.start()
    theirs.close()
    return _Job(target.name, process, ours, time.monotonic() + seconds + GRACE, log)


def _work(target: Any, seconds: float, seed: int, result: Connection, log: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    fuzz(target, seconds=seconds, number=seed, done=result.send)


def markdown(outcomes: Sequence[Outcome], seed: int) -> str:
    """Return the table of a run."""
    engine = max((outcome.engine for outcome in outcomes), key=len, default="")
    rows = [
        f"| {each.name} | {each.seconds:.0f} | {each.cpu:.0f} | {each.inputs:,} | "
        f"{len(each.crashes)} |"
        for each in outcomes
    ]
    head = ["| target | seconds | of CPU | inputs | crashes |", "|---|---|---|---|---|"]
    inputs = sum(each.inputs for each in outcomes)
    return "\n".join([*head, *rows, "", f"{inputs:,} inputs, made by {engine}, seed {seed}."])


if __name__ == "__main__":
    sys.exit(main())
