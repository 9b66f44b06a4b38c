"""Keeps 2,000 clients on one node for ten minutes: `python -m tests.benchmarks.load`. Needs root.

It ends with 1 where a bound is missed. Spegel (SPEGEL_BIN) is measured after this program, the same
way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from tests.benchmarks import machine
from tests.benchmarks.load import content, page, servers
from tests.benchmarks.load.content import Content
from tests.benchmarks.load.page import Run
from tests.benchmarks.load.plan import Answers, Look, Plan, figures, parse_buffers
from tests.benchmarks.machine import Meter
from tests.benchmarks.report import Outcome
from tests.support import images
from tests.support.processes import Process, end_in_good_order

_INSIDE = "BENCH_NETWORK_NAMESPACE"

_SETTLE = 5.0
"""Seconds that a node is left alone before its idle memory is read."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark in a network namespace that ends with it; returns the exit status."""
    options = _options(arguments)
    if _INSIDE not in os.environ:
        again = [sys.executable, "-m", "tests.benchmarks.load", *arguments]
        os.execvpe("unshare", ["unshare", "--net", *again], os.environ | {_INSIDE: "1"})
    plan = Plan(seconds=60.0 * options.minutes)
    given = page.conditions(plan, relayed=options.relayed) | machine.conditions()
    given |= {"command": shlex.join(["python", "-m", "tests.benchmarks.load", *arguments])}
    try:
        runs = asyncio.run(_all(plan, relayed=options.relayed))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    text = page.markdown(given, runs)
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        options.json.write_text(page.as_json(given, runs))
    print(text)
    return 1 if any(run.outcome.is_over for run in runs) else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.load", description="Load one node for long."
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long the clients stay (default: 10)"
    )
    parser.add_argument(
        "--relayed", action="store_true", help="the node has nothing, and relays all from a peer"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the page that is printed"
    )
    return parser.parse_args(arguments)


async def _all(plan: Plan, *, relayed: bool) -> list[Run]:
    end_in_good_order()
    await servers.prepare_network()
    these, parts = await asyncio.to_thread(content.make)
    names = ["spegel-py", *(["Spegel"] if servers.SPEGEL else [])]
    return [await _one(name, plan, these, parts, relayed=relayed) for name in names]


async def _one(
    name: str, plan: Plan, these: Mapping[str, Image], parts: Content, *, relayed: bool
) -> Run:
    print(f"{name} …", file=sys.stderr, flush=True)
    server = servers.spegel if name == "Spegel" else servers.ours
    meter = Meter()
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        origin = images.write_layout(Path(folder) / "origin", dict(these))
        large = origin.path(Digest.parse(f"sha256:{parts.large.sha256}"))
        async with server(Path(folder), these, parts, relayed=relayed) as node:
            await asyncio.sleep(min(_SETTLE, plan.window))
            idle = _look(node, time.monotonic())
            looks, answers = await _load(node, plan, parts, large)
    seconds, others = meter.read()
    found = figures(plan, idle, looks, answers, is_judged=name == "spegel-py")
    outcome = Outcome(benchmark=name, figures=tuple(found), seconds=seconds, others=others)
    return Run(outcome, tuple(looks), tuple(answers.examples))


async def _load(
    node: Process, plan: Plan, parts: Content, large: Path
) -> tuple[list[Look], Answers]:
    """Let the clients loose, and look at the node until they have ended."""
    task: dict[str, Any] = {
        "host": servers.HOST,
        "port": servers.REGISTRY,
        "sources": servers.SOURCES,
        "plan": asdict(plan),
        "ramp": plan.ramp,
        "content": parts.as_task(),
        "large": str(large),
    }
    generator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.load.generator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(machine.ROOT)},
    )
    try:
        telling = asyncio.ensure_future(generator.communicate(json.dumps(task).encode()))
        began, looks = time.monotonic(), []
        for due in plan.looks():
            await asyncio.wait([telling], timeout=max(0.0, began + due - time.monotonic()))
            looks.append(_look(node, began))
        async with asyncio.timeout(60):
            output, _ = await telling
    finally:
        if generator.returncode is None:
            generator.kill()
            await generator.wait()
    if generator.returncode:
        raise RuntimeError(f"the generator ended with {generator.returncode}")
    return looks, Answers(**json.loads(output))


def _look(node: Process, began: float) -> Look:
    pid = node.pid
    if pid is None:
        raise RuntimeError(f"the node has ended:\n{node.output[-2000:]}")
    return Look(
        seconds=time.monotonic() - began,
        rss=machine.memory(pid).rss,
        descriptors=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        cpu=machine.cpu_seconds(pid),
        waited=int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        / 1e9,  # of the main thread
        buffers=parse_buffers(Path("/proc/net/sockstat").read_text()),
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
