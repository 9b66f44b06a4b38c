"""Lets crowds of nodes pull an image that nobody has, or one of them, and counts:
`python -m tests.benchmarks.flash`.

It needs root and containerd; Spegel (SPEGEL_BIN) is compared where it is there. Each crowd is
played by every candidate in turn, with the same limits and an image of its own, so that ratios hold
on a machine that does other things too; all have pulled an image like it before, as nodes that have
been running for a while.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.benchmarks.flash import page, plot
from tests.benchmarks.flash.crowd import play
from tests.benchmarks.flash.outcome import Outcome, Round, middle, missed
from tests.benchmarks.flash.plan import CANDIDATES, FULL, QUICK, SPEGEL, Case
from tests.benchmarks.machine import Meter, conditions
from tests.interop.mixed import SPEGEL as BINARY
from tests.support.lab import start_lab
from tests.support.processes import end_in_good_order


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the crowds asked for; returns the exit status."""
    options = _options(arguments)
    cases = [case for case in (QUICK if options.quick else FULL) if options.match in case.name]
    names = [name for name in options.only or CANDIDATES if name != SPEGEL or BINARY]
    given: dict[str, Any] = conditions()
    rounds: list[tuple[Case, Round]] = []
    meter = Meter()
    try:
        asyncio.run(_run(cases, names, rounds))
        given["run"] = "whole"
    except (KeyboardInterrupt, asyncio.CancelledError):  # what was played has still been measured
        given["run"] = "ended early"
    seconds, others = meter.read()
    given["run"] += f", {seconds:.0f} s, in which others used {others:.2f} cores"
    text = page.markdown(given, rounds)
    for file, content in (
        (options.markdown, text),
        (options.json, page.as_json(given, rounds)),
        (options.svg, plot.svg(given, rounds)),
    ):
        if file:
            file.write_text(content)
    print(text)
    return 1 if options.strict and any(missed(case, outcomes) for case, outcomes in rounds) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.flash", description="Play flash crowds."
    )
    parser.add_argument("--quick", action="store_true", help="one small crowd: about a minute")
    parser.add_argument(
        "--only", action="append", choices=CANDIDATES, metavar="NAME", help="play it; repeatable"
    )
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="play only crowds that have this in their names"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it")
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 if anything wanted is missed"
    )
    return parser.parse_args(arguments)


async def _run(
    cases: Sequence[Case], names: Sequence[str], rounds: list[tuple[Case, Round]]
) -> None:
    """Play, and add what came of each crowd: of those too that were played before it was cut
    short.
    """
    end_in_good_order()
    async with start_lab(nodes=max((case.nodes for case in cases), default=1)) as lab:
        for case in cases:
            outcomes: dict[str, Outcome] = {}
            rounds.append((case, outcomes))
            plays: dict[str, list[Outcome]] = {name: [] for name in names}
            for number in range(case.times):
                # one that always came after the same other would have what that left to the file
                # system
                for name in Random(number).sample(names, len(names)) if number else names:
                    print(f"{case.name}: {name}", file=sys.stderr, flush=True)
                    plays[name].append(await play(lab, case, name))
                    outcomes[name] = middle(plays[name])


if __name__ == "__main__":
    raise SystemExit(main())
