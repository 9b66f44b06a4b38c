"""Measures how a node's weight grows with the cluster: `python -m tests.benchmarks.scale`.

Three parts, of which `--only` chooses:

- `nodes`: whole nodes beside one containerd, and Spegel's (SPEGEL_BIN). Needs root and containerd.
- `routers`: routers of the real code, many in a process, through joins, losses and partitions.
- `virtual`: the watching of peers in clusters of up to 5,000 nodes, on a virtual clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import machine, report
from tests.benchmarks.figures import Figure
from tests.benchmarks.machine import Meter
from tests.benchmarks.report import Outcome
from tests.benchmarks.scale import plot, rounds, virtual_time, whole_nodes
from tests.benchmarks.scale.plan import Size
from tests.benchmarks.scale.whole_nodes import Weight
from tests.support.processes import end_in_good_order

PARTS = ("nodes", "routers", "virtual")
FULL: dict[str, object] = {
    "nodes": [10, 20, 50],
    "virtual": [50, 200, 1000, 5000],
    "calm": 60.0,
    "keys": 10_000,
    "distinct": 50_000,
}
QUICK: dict[str, object] = {
    "nodes": [5],
    "virtual": [50],
    "calm": 15.0,
    "keys": 1_000,
    "distinct": 5_000,
}
_INSIDE = "BENCH_NETWORK_NAMESPACE"


def main(arguments: Sequence[str]) -> int:
    """Run the parts asked for; returns the exit status."""
    options = _options(arguments)
    parts = options.only or PARTS
    if "nodes" in parts and os.geteuid() == 0 and _INSIDE not in os.environ:
        again = [sys.executable, "-m", "tests.benchmarks.scale", *arguments]
        os.execvpe("unshare", ["unshare", "--net", *again], os.environ | {_INSIDE: "1"})
    given = machine.conditions()
    given |= {"command": shlex.join(["python", "-m", "tests.benchmarks.scale", *arguments])}
    weights: list[Weight] = []
    outcomes: list[Outcome] = []
    try:
        asyncio.run(_all(options, parts, weights, outcomes))
    except (KeyboardInterrupt, asyncio.CancelledError):
        given["run"] = "ended early"
    text = report.markdown(given, outcomes)
    found = json.loads(report.as_json(given, outcomes))
    found["nodes"] = [asdict(weight) for weight in weights]
    for file, content in (
        (options.markdown, text),
        (options.json, json.dumps(found, indent=1) + "\n"),
        (options.svg, plot.svg(given, weights)),
    ):
        if file:
            file.write_text(content)
    print(text)
    return 1 if options.strict and any(outcome.is_over for outcome in outcomes) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale",
        description="Measure how a node's weight grows with the cluster.",
    )
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help="run this part; repeatable"
    )
    parser.add_argument("--nodes", type=int, nargs="+", metavar="N")
    parser.add_argument("--calm", type=float, help="seconds of rest")
    parser.add_argument("--routers", type=int, default=60)
    parser.add_argument("--members", type=int, default=8, help="routers connected to all others")
    parser.add_argument("--per-process", type=int, default=20)
    parser.add_argument("--keys", type=int, help="keys of each router")
    parser.add_argument("--distinct", type=int, help="different keys of all")
    parser.add_argument("--virtual", type=int, nargs="+", metavar="N")
    parser.add_argument("--quick", action="store_true", help="few nodes and keys: three minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw what whole nodes weigh")
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 if a target is missed or a part fails"
    )
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


async def _all(
    options: argparse.Namespace,
    parts: Sequence[str],
    weights: list[Weight],
    outcomes: list[Outcome],
) -> None:
    end_in_good_order()
    if _INSIDE in os.environ:
        await whole_nodes.prepare_network()

    async def nodes() -> list[Figure]:
        if _INSIDE not in os.environ:
            raise RuntimeError("needs root")
        weights.extend(await whole_nodes.measure(options.nodes, calm=options.calm))
        return whole_nodes.figures(weights)

    async def routers() -> list[Figure]:
        size = Size(
            routers=options.routers,
            members=options.members,
            per_process=options.per_process,
            keys=options.keys,
            distinct=options.distinct,
            calm=options.calm,
        )
        return await rounds.measure(size)

    measures: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
        "nodes": nodes,
        "routers": routers,
        "virtual": lambda: virtual_time.measure(options.virtual),
    }
    for name in parts:
        outcomes += [await _one(name, measures[name])]


async def _one(name: str, measure: Callable[[], Awaitable[list[Figure]]]) -> Outcome:
    meter = Meter()
    figures: list[Figure] = []
    error = ""
    try:
        figures = await measure()
    except Exception as failure:  # a part that cannot run here must not take the others with it
        error = " ".join(f"{type(failure).__name__}: {failure}".split())[:300]
    seconds, others = meter.read()
    return Outcome(
        benchmark=name, figures=tuple(figures), seconds=seconds, others=others, error=error
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
