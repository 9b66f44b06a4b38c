"""Break things in the middle of real pulls, and print the results: `python -m tests.faults.chaos`.

It needs root and containerd. The exit status is 1 if a row misses its bound: every pull succeeds
with the right digests while the registry or one good peer is left, within 5 s more than an
undisturbed pull.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.chaos import report
from tests.faults.chaos.cluster import FULL, SHORT, start_cluster
from tests.faults.chaos.player import ChaosPlayer
from tests.faults.chaos.report import ChaosOutcome
from tests.faults.chaos.rogue import ROGUE, RogueOutcome, play_rogue
from tests.faults.chaos.rows import ROWS, Row
from tests.faults.harness import Play, chosen, parser, run
from tests.faults.report import Outcome, as_json

Item = tuple[Row, int]
"""A row, and how many nodes pull at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the chosen rows and return the exit status."""
    options = _options(arguments)
    rows = [*ROWS, Row(name=ROGUE)]
    if options.only:
        rows = chosen(rows, options.only)
    elif options.short:
        rows = [row for row in rows if row.is_short]
    items = [
        (row, at_once)
        for row in rows
        for at_once in ((1,) if options.short or row.name == ROGUE else (1, 2))
    ]
    views = {"json": as_json, "markdown": _markdown}
    size = "short" if options.short else "full"
    start = partial(_start, options)
    return run(items, start, views, options, size=size, seed=options.seed)


@asynccontextmanager
async def _start(
    options: argparse.Namespace, outcomes: list[Outcome]
) -> AsyncIterator[Play[Item, Outcome]]:
    async with start_cluster(SHORT if options.short else FULL) as cluster:
        player = ChaosPlayer(
            cluster=cluster,
            random=random.Random(options.seed),
            rounds=1 if options.short else options.rounds,
            logs=options.logs,
        )

        async def play(item: Item) -> Outcome:
            row, at_once = item
            if row.name == ROGUE:
                return await play_rogue(cluster, seconds=options.turn, only=options.attack or ())
            return await player.play(row, at_once)

        try:
            yield play
        finally:
            outcomes[:0] = player.undisturbed()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("tests.faults.chaos", "Break things in mid-pull.", "json", "markdown")
    add = options.add_argument
    add("--short", action="store_true", help="a small image, most rows, each once, no pairs")
    add("--attack", action="append", metavar="NAME", help="play this attack only; repeatable")
    add("--turn", type=float, default=3.0, metavar="S", help="seconds of each attack")
    add("--rounds", type=int, default=2, metavar="N", help="times each row is played")
    add("--seed", type=int, default=1, metavar="N", help="chooses when faults strike")
    add("--logs", type=Path, metavar="FOLDER", help="keep the logs of rounds that went wrong")
    return options.parse_args(arguments)


def _markdown(conditions: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    pulls = [one for one in outcomes if isinstance(one, ChaosOutcome)]
    rogue = [one.markdown() for one in outcomes if isinstance(one, RogueOutcome)]
    return "\n".join([report.markdown(conditions, pulls), *rogue])


if __name__ == "__main__":
    raise SystemExit(main())
