"""Breaks things in the middle of real pulls, and prints what became of those: `python -m tests.chaos`.

It needs root and containerd. The exit status is 1 if a row misses its bound: every pull succeeds with the right digests
where the registry or one good peer is left, within 5 s more than an undisturbed one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import conditions
from tests.chaos import report
from tests.chaos.content import NotPossible
from tests.chaos.field import FULL, SHORT, Field, start_field
from tests.chaos.report import Outcome
from tests.chaos.rows import ROWS, Row
from tests.chaos.scene import Pull, play

STALE = 120.0
"""Seconds after which an undisturbed pull is timed anew: the machine may be busier than it was."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rows asked for; returns the exit status."""
    options = _options(arguments)
    names = {row.name for row in ROWS}
    if unknown := set(options.only or ()) - names:
        raise SystemExit(f"no such rows: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(names))}")
    rows = [row for row in ROWS if (row.name in options.only if options.only else row.is_short or not options.short)]
    given = conditions() | {"size": "short" if options.short else "full", "seed": options.seed}
    try:
        outcomes = asyncio.run(_run(rows, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if options.json:
        options.json.write_text(report.as_json(given, outcomes))
    page = report.markdown(given, outcomes)
    if options.markdown:
        options.markdown.write_text(page)
    print(page)
    return 1 if any(outcome.missed for outcome in outcomes) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break things in mid-pull.")
    parser.add_argument("--short", action="store_true", help="a small image, most rows, each once, no pairs")
    parser.add_argument("--only", action="append", metavar="ROW", help="play this row; repeatable")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="times a row is played, alone and in pairs")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="chooses when faults strike")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page that is printed")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs of rounds that went wrong")
    return parser.parse_args(arguments)


async def _run(rows: Sequence[Row], options: argparse.Namespace) -> list[Outcome]:
    task = asyncio.current_task()
    assert task is not None
    # what was started ends with it only if it ends in good order
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with start_field(SHORT if options.short else FULL) as field:
        player = Player(field=field, random=random.Random(options.seed), logs=options.logs)
        outcomes = []
        for row in rows:
            for at_once in (1,) if options.short else (1, 2):
                outcome = await player.play(row, at_once, rounds=1 if options.short else options.rounds)
                print(f"{row.name}, {at_once} at once: {outcome.verdict}", file=sys.stderr, flush=True)
                outcomes.append(outcome)
        return [*player.undisturbed(), *outcomes]


class Player:
    """Plays rows, with undisturbed pulls in between."""

    def __init__(self, *, field: Field, random: random.Random, logs: Path | None) -> None:
        self._field = field
        self._random = random
        self._logs = logs
        self._calm: dict[int, list[Pull]] = {}
        self._timed: dict[int, float] = {}

    async def play(self, row: Row, at_once: int, *, rounds: int) -> Outcome:
        """Play a row some times; what goes wrong with it is in its outcome."""
        pulls: list[Pull] = []
        undisturbed: list[float] = []
        error = left_out = ""
        for _ in range(rounds):
            try:
                calm = await self._undisturbed(at_once)
                found = await self._round(row, at_once)
            except NotPossible as reason:
                left_out = str(reason)
                break
            except Exception as failure:  # one that cannot be played must not take the others with it
                traceback.print_exc()
                error = " ".join(f"{type(failure).__name__}: {failure}".split())[-200:]
                break
            pulls += found
            undisturbed += [calm] * at_once
        return Outcome(
            row=row.name,
            at_once=at_once,
            pulls=tuple(pulls),
            undisturbed=tuple(undisturbed),
            expected=row.expected,
            why=row.why,
            error=error,
            left_out=left_out,
        )

    def undisturbed(self) -> list[Outcome]:
        """Return the pulls without a fault."""
        return [
            Outcome(
                row="nothing", at_once=at_once, pulls=tuple(pulls), undisturbed=tuple(pull.seconds for pull in pulls)
            )
            for at_once, pulls in sorted(self._calm.items())
        ]

    async def _undisturbed(self, at_once: int) -> float:
        """Return the seconds of the slowest of so many undisturbed pulls at once, not long ago."""
        pulls = self._calm.setdefault(at_once, [])
        if not pulls or time.monotonic() - self._timed[at_once] > STALE:
            pulls += await self._round(Row(name="nothing"), at_once)
            self._timed[at_once] = time.monotonic()
        return max(pull.seconds for pull in pulls[-at_once:])

    async def _round(self, row: Row, at_once: int) -> list[Pull]:
        pullers, share = self._field.pullers[:at_once], self._random.uniform(0.1, 0.6)
        await self._field.refresh(pullers, row.flags)
        seen = [len(node.spegel.output) for node in pullers if node.spegel]
        pulls = await play(self._field, pullers, before=row.before, during=row.during, share=share, tries=row.tries)
        for node, pull, start in zip(pullers, pulls, seen, strict=True):
            if self._logs and node.spegel and (pull.errors or pull.seconds > 10):
                self._logs.mkdir(parents=True, exist_ok=True)
                name = f"{row.name}-{node.address}-{time.time():.0f}.log"
                (self._logs / name).write_text(f"{pull}\nfault at {share:.2f}\n{node.spegel.output[start:]}")
        return pulls


if __name__ == "__main__":
    raise SystemExit(main())
