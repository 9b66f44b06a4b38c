"""Breaks things in the middle of real pulls, and prints what became of those: `python -m tests.faults.chaos`.

It needs root and containerd. The exit status is 1 if a row misses its bound: every pull succeeds with the right digests
where the registry or one good peer is left, within 5 s more than an undisturbed one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import conditions
from tests.faults.chaos import report
from tests.faults.chaos.field import FULL, SHORT, start_field
from tests.faults.chaos.player import Player
from tests.faults.chaos.report import Outcome
from tests.faults.chaos.rogue import Siege, besiege
from tests.faults.chaos.rows import ROWS, Row
from tests.processes import end_in_good_order

ROGUE = "rogue peer"
"""What the row of the rogue's attacks is called."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the rows asked for; returns the exit status."""
    options = _options(arguments)
    names = {row.name for row in ROWS} | {ROGUE}
    if unknown := set(options.only or ()) - names:
        raise SystemExit(
            f"no such rows: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(names))}"
        )
    rows = [
        row
        for row in ROWS
        if (row.name in options.only if options.only else row.is_short or not options.short)
    ]
    given = conditions() | {"size": "short" if options.short else "full", "seed": options.seed}
    try:
        outcomes, siege = asyncio.run(_run(rows, options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if options.json:
        options.json.write_text(report.as_json(given, outcomes))
    page = report.markdown(given, outcomes) + (f"\n{siege.markdown()}" if siege else "")
    if options.markdown:
        options.markdown.write_text(page)
    print(page)
    return 1 if any(outcome.missed for outcome in outcomes) or (siege and siege.missed) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.chaos", description="Break things in mid-pull."
    )
    parser.add_argument(
        "--short", action="store_true", help="a small image, most rows, each once, no pairs"
    )
    parser.add_argument("--only", action="append", metavar="ROW", help="play this row; repeatable")
    parser.add_argument(
        "--attack", action="append", metavar="NAME", help="the rogue does this one; repeatable"
    )
    parser.add_argument(
        "--turn",
        type=float,
        default=3.0,
        metavar="S",
        help="seconds of each of the rogue's attacks",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        metavar="N",
        help="times a row is played, alone and in pairs",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="chooses when faults strike"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument(
        "--logs", type=Path, metavar="FOLDER", help="keep the logs of rounds that went wrong"
    )
    return parser.parse_args(arguments)


async def _run(
    rows: Sequence[Row], options: argparse.Namespace
) -> tuple[list[Outcome], Siege | None]:
    end_in_good_order()
    async with start_field(SHORT if options.short else FULL) as field:
        player = Player(field=field, random=random.Random(options.seed), logs=options.logs)
        outcomes = []
        for row in rows:
            for at_once in (1,) if options.short else (1, 2):
                outcome = await player.play(
                    row, at_once, rounds=1 if options.short else options.rounds
                )
                print(
                    f"{row.name}, {at_once} at once: {outcome.verdict}", file=sys.stderr, flush=True
                )
                outcomes.append(outcome)
        siege = None
        if not options.only or ROGUE in options.only:
            siege = await besiege(field, tours=1, seconds=options.turn, only=options.attack or ())
            print(f"{ROGUE}: {siege.missed or 'ok'}", file=sys.stderr, flush=True)
        return [*player.undisturbed(), *outcomes], siege


if __name__ == "__main__":
    raise SystemExit(main())
