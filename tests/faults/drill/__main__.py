"""Breaks a cluster of six nodes in every way there is: `python -m tests.faults.drill` prints how soon each was seen and over.

It needs root and containerd. The exit status is 1 if a row misses an objective: those of the alert's tier, and those
that the row itself has.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import conditions
from tests.faults.drill import plot, report
from tests.faults.drill.ground import start_ground
from tests.faults.drill.player import Player
from tests.faults.drill.report import Outcome
from tests.faults.drill.rows import FULL, SHORT, Row
from tests.processes import end_in_good_order


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rows asked for; returns the exit status."""
    options = _options(arguments)
    rows = chosen(options.only or (), is_short=options.short)
    given = conditions() | {"size": "short" if options.short else "full"}
    began = time.monotonic()
    outcomes: list[Outcome] = []
    is_cut_short = False
    try:
        asyncio.run(_run(rows, options.logs, outcomes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        is_cut_short = True
    given |= {"seconds": round(time.monotonic() - began)}
    page = report.markdown(given, outcomes)
    for file, text in (
        (options.json, report.as_json(given, outcomes)),
        (options.svg, plot.svg(outcomes, given)),
        (options.markdown, page),
    ):
        if file:
            file.write_text(text)
    print(page)
    return 130 if is_cut_short else 1 if any(outcome.missed for outcome in outcomes) else 0


def chosen(names: Sequence[str], *, is_short: bool) -> list[Row]:
    """Return the rows of these names, all if there are none; raises SystemExit for one that is not there."""
    rows = SHORT if is_short else FULL
    known = {row.name for row in rows}
    if unknown := set(names) - known:
        raise SystemExit(
            f"no such rows: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}"
        )
    return [row for row in rows if not names or row.name in names]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.drill", description="Break a cluster, and see it heal."
    )
    parser.add_argument(
        "--short", action="store_true", help="fewer rows, a short churn: about three minutes"
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="play this row; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a drawing")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="keep the logs of rows that missed an objective"
    )
    return parser.parse_args(arguments)


async def _run(rows: Sequence[Row], logs: Path | None, outcomes: list[Outcome]) -> None:
    """Play the rows, and add what came of each: of those too that were played before it was cut short."""
    end_in_good_order()
    async with start_ground() as ground:
        player = Player(ground=ground, logs=logs)
        for row in rows:
            outcome = await player.play(row)
            print(f"{row.name}: {outcome.verdict}", file=sys.stderr, flush=True)
            outcomes.append(outcome)


if __name__ == "__main__":
    raise SystemExit(main())
