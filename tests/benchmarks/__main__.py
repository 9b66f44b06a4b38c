"""Measures spegel-py on this machine and prints one table: `python -m tests.benchmarks`.

One benchmark needs root and containerd, one Chromium. The figures depend on the machine and on what
else it does; both are written down with them. A missed target is shown, and is no failure unless
--strict is given.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import (
    failover,
    idle,
    lookup,
    loss,
    manifests,
    memory,
    peer_tls,
    proofs,
    ranges,
    report,
    spread,
    throughput,
    web,
)
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Meter, conditions
from tests.benchmarks.report import Outcome
from tests.support.processes import end_in_good_order

BENCHMARKS: dict[str, Callable[..., Awaitable[list[Figure]]]] = {
    "lookup": lookup.measure,
    "manifests": manifests.measure,
    "proofs": proofs.measure,
    "ranges": ranges.measure,
    "spread": spread.measure,
    "loss": loss.measure,
    "memory": memory.measure,
    "idle": idle.measure,
    "throughput": throughput.measure,
    "tls": peer_tls.measure,
    "failover": failover.measure,
    "web": web.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks asked for; returns the exit status."""
    options = _options(arguments)
    try:
        given, outcomes = asyncio.run(
            _run(options.only or list(BENCHMARKS), is_quick=options.quick)
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if options.json:
        options.json.write_text(report.as_json(given, outcomes))
    if options.markdown:
        options.markdown.write_text(report.markdown(given, outcomes))
    print(report.markdown(given, outcomes))
    return 1 if options.strict and any(outcome.is_over for outcome in outcomes) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure spegel-py."
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples: about two minutes instead of seven"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=BENCHMARKS,
        metavar="NAME",
        help="run this one; repeatable",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with 1 if a target is missed or a benchmark fails",
    )
    return parser.parse_args(arguments)


async def _run(names: Sequence[str], *, is_quick: bool) -> tuple[dict[str, Any], list[Outcome]]:
    end_in_good_order()
    given = conditions() | {"size": "quick" if is_quick else "full"}
    outcomes = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        outcomes.append(await _one(name, is_quick=is_quick))
    return given, outcomes


async def _one(name: str, *, is_quick: bool) -> Outcome:
    meter = Meter()
    figures: list[Figure] = []
    error = ""
    try:
        figures = await BENCHMARKS[name](is_quick=is_quick)
    except Exception as failure:  # one that cannot run here must not take the others with it
        error = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
    seconds, others = meter.read()
    return Outcome(
        benchmark=name, figures=tuple(figures), seconds=seconds, others=others, error=error
    )


if __name__ == "__main__":
    raise SystemExit(main())
