"""Simulates clusters that pull one blob at once: `python -m tests.benchmarks.flight`.

They have 100, 1,000 and 10,000 nodes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.flight.simulation import Result, Scene, simulate

SIZES = (100, 1000, 10_000)
CHURN = (0.0, 0.1)
STARTS = 250
"""Nodes that start to pull in a second, or all within two: a scheduler binds no more pods.

A coordinator answers 500 requests a second. A node that waits for too long goes upstream by itself.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row for each scene; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flight", description=__doc__)
    parser.add_argument(
        "--nodes", type=int, action="append", metavar="COUNT", help="only so many; repeatable"
    )
    parser.add_argument("--seed", type=int, default=1, help="another cluster (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    options = parser.parse_args(arguments)
    results = []
    print(
        " nodes churn starts one node makespan upstream msgs/node depth sent up alone  queue"
        "       have it"
    )
    for nodes in options.nodes or SIZES:
        for churn in CHURN:
            began = time.monotonic()
            results.append(
                simulate(
                    Scene(
                        nodes=nodes, churn=churn, spread=max(2, nodes / STARTS), seed=options.seed
                    )
                )
            )
            print(row(results[-1]), flush=True)
            print(f"{time.monotonic() - began:.1f} s of work", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2))
    return 0 if all(is_met(result) for result in results) else 1


def row(result: Result) -> str:
    scene = result.scene
    return (
        f"{scene.nodes:>6} {scene.churn:>5.0%} {scene.spread:>4.0f} s {scene.alone:>6.1f} s "
        f"{result.makespan:>6.1f} s {result.upstream:>7.2f}x {result.messages:>9.1f} "
        f"{result.depth:>5} {result.leaders:>7} {result.alone:>5}"
        f" {result.queue:>4.2f} s {result.done:>6}/{result.living}"
    )


def is_met(result: Result) -> bool:
    """Return True if every node has the blob, with at most 1.2 times its bytes from upstream."""
    return result.done == result.living and result.upstream <= 1.2


if __name__ == "__main__":
    raise SystemExit(main())
