"""Break a cluster of six nodes, and time how it heals: `python -m tests.faults.drill`.

It needs root and containerd. The exit status is 1 if a row misses an objective of its alert's
tier or of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tests.faults.drill import plot
from tests.faults.drill.cluster import start_cluster
from tests.faults.drill.keeping import KEEPING, SHORT_STEP, STEP, KeepingPlayer, KeepingRow
from tests.faults.drill.player import DrillPlayer
from tests.faults.drill.report import DrillOutcome, markdown
from tests.faults.drill.rows import FULL, SHORT, Row
from tests.faults.drill.zone_lost import ZONE_ROWS
from tests.faults.harness import Play, chosen, parser, run
from tests.faults.report import as_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the chosen rows and return the exit status."""
    options = _options(arguments)
    keeping = [row for row in (*KEEPING, *ZONE_ROWS) if row.is_short or not options.short]
    rows: list[Row | KeepingRow] = [*(SHORT if options.short else FULL), *keeping]
    views = {"json": as_json, "svg": plot.svg, "markdown": markdown}
    size = "short" if options.short else "full"
    start = partial(_start, options.logs, SHORT_STEP if options.short else STEP)
    return run(chosen(rows, options.only or ()), start, views, options, size=size)


@asynccontextmanager
async def _start(
    logs: Path | None, step: float, outcomes: list[DrillOutcome]
) -> AsyncIterator[Play[Row | KeepingRow, DrillOutcome]]:
    async with start_cluster() as cluster:
        player = DrillPlayer(cluster=cluster, logs=logs)
        keeping = KeepingPlayer(cluster=cluster, logs=logs, step=step)

        async def play(row: Row | KeepingRow) -> DrillOutcome:
            return await (keeping.play(row) if isinstance(row, KeepingRow) else player.play(row))

        yield play


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(
        "tests.faults.drill", "Break a cluster, and see it heal.", "json", "svg", "markdown"
    )
    add = options.add_argument
    add("--short", action="store_true", help="fewer rows, a short churn: about three minutes")
    add("--logs", type=Path, metavar="FOLDER", help="keep the logs of rows that went wrong")
    return options.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
