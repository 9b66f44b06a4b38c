"""Breaks what shares an image in flight, in every way there is: `python -m tests.faults.crowd` prints what became of pulls.

It needs root and containerd. The exit status is 1 if a pull failed that had to succeed, hung, or holds wrong bytes, if
the registry sent more than a row explains, or if a mirror left something open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.machine import conditions
from tests.benchmarks.report import aligned, flat
from tests.faults.crowd.ground import start_ground
from tests.faults.crowd.player import Outcome, play
from tests.faults.crowd.rows import ROWS, Row
from tests.processes import end_in_good_order

_HEAD = (
    "fault",
    "pulls",
    "succeeded",
    "right",
    "excused",
    "slowest s",
    "copies from the registry",
    "verdict",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rows asked for; returns the exit status."""
    options = _options(arguments)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    if options.rounds:
        rng = random.Random(options.seed)
        rows = [rng.choice(rows) for _ in range(options.rounds)]
    given = conditions() | {"seed": options.seed if options.rounds else "in order"}
    outcomes: list[Outcome] = []
    is_cut_short = False
    try:
        asyncio.run(_run(rows, outcomes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        is_cut_short = True
    page = _markdown(given, outcomes)
    if options.json:
        found = [asdict(outcome) | {"missed": outcome.missed} for outcome in outcomes]
        options.json.write_text(json.dumps({"conditions": given, "rows": found}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(page)
    print(page)
    return 130 if is_cut_short else 1 if any(outcome.missed for outcome in outcomes) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.crowd", description="Break what shares an image in flight."
    )
    parser.add_argument(
        "--only", action="append", choices=[row.name for row in ROWS], metavar="ROW"
    )
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N", help="play N rows chosen at random instead"
    )
    parser.add_argument("--seed", type=int, default=1, help="of that choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    return parser.parse_args(arguments)


async def _run(rows: Sequence[Row], outcomes: list[Outcome]) -> None:
    end_in_good_order()
    async with start_ground() as ground:
        for row in rows:
            outcome = await play(ground, row)
            print(f"{row.name}: {_verdict(outcome)}", file=sys.stderr, flush=True)
            outcomes.append(outcome)


def _markdown(given: dict[str, object], outcomes: Sequence[Outcome]) -> str:
    lines = [f"- {name}: {flat(value)}" for name, value in given.items()]
    table = aligned([_HEAD, *(_row(outcome) for outcome in outcomes)])
    return "\n".join(["# Crowds that are disturbed", "", *lines, "", table, ""])


def _row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.row,
        str(len(outcome.pulls)),
        str(sum(pull.succeeded for pull in outcome.pulls)),
        str(sum(pull.is_right for pull in outcome.pulls)),
        str(sum(pull.is_excused for pull in outcome.pulls)),
        f"{max((pull.seconds for pull in outcome.pulls if not pull.is_excused), default=0.0):.1f}",
        f"{outcome.copies:.2f} ≤ {outcome.most:g}",
        _verdict(outcome),
    )


def _verdict(outcome: Outcome) -> str:
    return "; ".join(outcome.missed) or "ok"


if __name__ == "__main__":
    raise SystemExit(main())
