"""Compares how a node moves bytes with how others do, in one run:
`python -m tests.benchmarks.dataplane`.

It needs root and containerd; Spegel (SPEGEL_BIN), Go and nginx are compared where they are there.
The candidates serve the same files and take turns within every measurement, so that ratios hold on
a machine that does other things too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.dataplane import candidates, commands, page, plot, slow_disk
from tests.benchmarks.dataplane.candidates import Candidate
from tests.benchmarks.dataplane.conditions import conditions
from tests.benchmarks.dataplane.content import Content, make, write_layout
from tests.benchmarks.dataplane.measure import Bench
from tests.benchmarks.dataplane.plan import FULL, QUICK, Cell, Scale, cells, turns
from tests.benchmarks.dataplane.summary import Sample, failures, named, rows
from tests.benchmarks.machine import Meter
from tests.support.containerd import Daemon
from tests.support.processes import end_in_good_order

_INSIDE = "BENCH_NETWORK_NAMESPACE"


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark in a network namespace that ends with it; returns the exit status."""
    options = _options(arguments)
    if _INSIDE not in os.environ:
        again = [sys.executable, "-m", "tests.benchmarks.dataplane", *arguments]
        os.execvpe("unshare", ["unshare", "--net", *again], os.environ | {_INSIDE: "1"})
    names = [name for name in options.only or commands.HOSTS if name not in commands.missing()]
    try:
        given, samples = asyncio.run(
            _run(names, arguments, QUICK if options.quick else FULL, options.match)
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    found = rows(samples)
    text = page.markdown(given, names, found)
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        options.json.write_text(page.as_json(given, found, samples))
    if options.svg:
        options.svg.write_text(plot.svg(names, found, plot.caption(given)))
    print(text)
    return 1 if options.strict and any(row.verdict == "fail" for row in found) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.dataplane", description="Compare data planes."
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round of little: under a minute, for a smoke test"
    )
    parser.add_argument(
        "--only", action="append", choices=commands.HOSTS, metavar="NAME", help="run it; repeatable"
    )
    parser.add_argument(
        "--match", default="", metavar="TEXT", help="measure only what has this in its name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the CPU seconds per GB")
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 if anything fails that is wanted"
    )
    return parser.parse_args(arguments)


async def _run(
    names: Sequence[str], arguments: Sequence[str], scale: Scale, match: str
) -> tuple[dict[str, Any], list[Sample]]:
    end_in_good_order()
    await commands.prepare_network()
    with tempfile.TemporaryDirectory(prefix="bench-dataplane-") as folder:
        obstacle = slow_disk.obstacle(Path(folder))
        given = conditions(arguments, scale, obstacle)
        planned = [
            cell
            for cell in cells(scale.clients, with_slow_disk=not obstacle)
            if match in named(cell)
        ]
        meter = Meter()
        async with _started(names, Path(folder), scale) as (bench, found):
            samples: list[Sample] = []
            given["run"] = "whole"
            try:
                for number, cell, candidate in turns(found, planned, scale.rounds):
                    print(
                        f"round {number + 1}: {named(cell)}: {candidate.name}",
                        file=sys.stderr,
                        flush=True,
                    )
                    samples.append(await _sample(bench, number, cell, candidate))
            except (
                asyncio.CancelledError
            ):  # a long run that is ended early has still measured something
                given["run"] = f"ended in round {number + 1}"
        seconds, others = meter.read()
    given["run"] += f", {seconds:.0f} s, in which others used {others:.2f} cores"
    given["failed"] = "; ".join(failures(samples)) or "nothing"
    return given, samples


async def _sample(bench: Bench, number: int, cell: Cell, candidate: Candidate) -> Sample:
    try:
        return Sample(number, cell, candidate.name, await bench.measure(cell, candidate))
    except Exception as failure:  # one measurement must not take an hour's others with it
        error = " ".join(f"{type(failure).__name__}: {failure}".split())
        return Sample(number, cell, candidate.name, {}, error[-300:])


@asynccontextmanager
async def _started(
    names: Sequence[str], folder: Path, scale: Scale
) -> AsyncIterator[tuple[Bench, list[Candidate]]]:
    """Run containerd, which holds one image, the peer, which holds another, and the candidates."""
    async with AsyncExitStack() as stack:
        daemon = Daemon(folder=folder / "containerd", has_cri=False)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        image, local = await asyncio.to_thread(make, scale.blobs)
        await daemon.load({"registry.test/bench/app:1": image})
        image, relayed = await asyncio.to_thread(make, scale.blobs)
        blobs = await asyncio.to_thread(write_layout, folder / "peer", image)
        content = Content({"local": local, "relayed": relayed})
        found = await stack.enter_async_context(
            candidates.start(names, folder=folder, daemon=daemon, peer_blobs=blobs, content=content)
        )
        yield Bench(scale=scale, content=content, disk=daemon.path(local.blobs["large"])), found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
