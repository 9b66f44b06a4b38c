"""Disturb nodes that share an image, and print the results: `python -m tests.faults.crowd`.

It needs root and containerd. The exit status is 1 if a pull failed that had to succeed, hung, or
left wrong bytes, if the registry sent more than a row allows, or if a mirror left something open.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from tests.faults.crowd.cluster import start_cluster
from tests.faults.crowd.player import play
from tests.faults.crowd.report import CrowdOutcome, markdown
from tests.faults.crowd.rows import ROWS, Row
from tests.faults.harness import Play, chosen, parser, run
from tests.faults.report import as_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the chosen rows and return the exit status."""
    options = _options(arguments)
    rows = chosen(ROWS, options.only or ())
    if options.rounds:
        rng = random.Random(options.seed)
        rows = [rng.choice(rows) for _ in range(options.rounds)]
    views = {"json": as_json, "markdown": markdown}
    return run(rows, _start, views, options, seed=options.seed if options.rounds else "in order")


@asynccontextmanager
async def _start(outcomes: list[CrowdOutcome]) -> AsyncIterator[Play[Row, CrowdOutcome]]:
    async with start_cluster() as cluster:
        yield partial(play, cluster)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("tests.faults.crowd", "Disturb nodes that share an image.", "json", "markdown")
    add = options.add_argument
    add("--rounds", type=int, default=0, metavar="N", help="play N rows chosen at random instead")
    add("--seed", type=int, default=1, help="seed of that choice")
    return options.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
