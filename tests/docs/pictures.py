"""Draw the dashboard's panels from a real run: `python -m tests.docs.pictures`.

The picture is docs/pictures/dashboard.svg. A real Prometheus scrapes four nodes on this machine
while clients pull through them, and a node is killed and restarted. Then Prometheus answers the
panels' own queries. It is `PROMETHEUS_BIN`, or found in the path (Debian has it).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from spegel_py import __version__
from spegel_py.demo.demo_cluster import cluster
from spegel_py.demo.demo_node import DemoNode, free_ports
from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from tests.deploy.test_monitoring import DASHBOARD
from tests.docs.chart import Panel, Series, svg
from tests.support.images import image, write_layout
from tests.support.processes import Process

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "dashboard.svg"

SECONDS = 75.0
"""How long clients pull."""

DIES, RETURNS = 30.0, 50.0
"""Seconds from the beginning at which a node with all images is killed, and starts again."""

STEP = 1
"""Seconds between two scrapes, and between two points."""

PANELS = (
    "Pulls by source",
    "Bytes to clients by source",
    "Misses by reason",
    "Latency of manifests and blobs",
    "Requests by peer",
    "Time to the head of an answer by peer",
    "Failures by peer and reason",
    "Health",
    "Alerts open by tier",
    "Announcements",
    "Event loop lag",
    "Memory",
)

_VARIABLES = {"$__rate_interval": "10s", "$__range": "1m", "$namespace": ".*", "$instance": ".*"}

_CONFIG = """\
global: {{scrape_interval: {step}s, scrape_timeout: {step}s}}
scrape_configs:
  - job_name: spegel-py
    static_configs:
      - targets: {targets}
        labels: {{namespace: spegel}}
"""


async def main() -> int:
    """Run all of it; returns the exit status."""
    program = os.environ.get("PROMETHEUS_BIN") or shutil.which("prometheus")
    if program is None:
        print(
            "there is no Prometheus: install it, or name it with PROMETHEUS_BIN",
            file=sys.stderr,
        )
        return 2
    images = [image(f"picture/{number}", layers=4, size=4_000_000) for number in range(6)]
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        async with cluster(folder / "nodes") as made, aiohttp.ClientSession() as session:
            nodes = await made.prepare(4)
            for node in nodes[:2]:
                write_layout(
                    node.layout, {f"registry.example/app{n}:1": one for n, one in enumerate(images)}
                )
            await made.start(nodes)
            await made.joined(
                nodes[2:], records=2 * len({blob.digest for one in images for blob in one.blobs})
            )
            async with _prometheus(program, folder, nodes, session) as url:
                began = time.time()
                await _pull(nodes, images, session)
                panels = [await _ask(panel, url, began, session) for panel in _panels()]
    what = (
        f"4 nodes on one machine, one hangs and dies after {DIES:.0f} s, "
        f"and is back after {RETURNS:.0f} s"
    )
    title = f"The dashboard's panels, spegel-py {__version__}: {what}"
    PICTURE.write_text(svg(title, panels, SECONDS))
    print(f"{PICTURE}: {len(panels)} panels, {sum(len(panel.series) for panel in panels)} lines")
    return 0 if all(panel.series for panel in panels) else 1


@asynccontextmanager
async def _prometheus(
    program: str, folder: Path, nodes: Sequence[DemoNode], session: aiohttp.ClientSession
) -> AsyncIterator[str]:
    port = free_ports().metrics
    url, targets = f"http://127.0.0.1:{port}", [f"127.0.0.1:{node.ports.metrics}" for node in nodes]
    (folder / "prometheus.yml").write_text(_CONFIG.format(step=STEP, targets=json.dumps(targets)))
    process = Process(
        command=[
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        log=folder / "prometheus.log",
    )

    async def is_ready() -> bool:
        try:
            async with session.get(f"{url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await process.start(is_ready, deadline=60.0)
    try:
        yield url
    finally:
        await process.end()


async def _pull(
    nodes: Sequence[DemoNode], images: Sequence[Image], session: aiohttp.ClientSession
) -> None:
    """Pull as clients of the two empty nodes; one of the two full nodes dies and comes back."""
    began = time.monotonic()

    async def client(node: DemoNode, rng: random.Random) -> None:
        while time.monotonic() - began < SECONDS:
            one = rng.choice(images)
            for blob in one.blobs:
                kind = "manifests" if blob is one.root else "blobs"
                await _get(
                    session, f"{node.mirror}/v2/app/{kind}/{blob.digest}?ns=registry.example"
                )
            if rng.random() < 0.3:
                missing = Digest.of(rng.randbytes(16))
                await _get(session, f"{node.mirror}/v2/app/blobs/{missing}?ns=registry.example")
            await asyncio.sleep(rng.uniform(0.2, 1.0))

    async def fault() -> None:
        await asyncio.sleep(DIES)
        if (
            pid := nodes[1].pid
        ) is not None:  # it hangs for a moment first, so that somebody is being served when it dies
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1)
        nodes[1].kill()
        await nodes[1].wait_ended()
        await asyncio.sleep(RETURNS - DIES)
        nodes[1].start(bootstrap=nodes[0].ports.router)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fault())
        for number, node in enumerate(nodes[2:]):
            tasks.create_task(client(node, random.Random(number)))


async def _get(session: aiohttp.ClientSession, url: str) -> None:
    with suppress(aiohttp.ClientError):  # cut short, where nobody could go on
        async with session.get(url) as answer:
            async for _ in answer.content.iter_chunked(1 << 16):
                pass


def _panels() -> list[Mapping[str, Any]]:
    by_title = {panel["title"]: panel for panel in DASHBOARD["panels"]}
    return [by_title[title] for title in PANELS]


async def _ask(
    panel: Mapping[str, Any], url: str, began: float, session: aiohttp.ClientSession
) -> Panel:
    """Put a panel's queries to Prometheus, for the time in which clients pulled.

    Lines that are always 0 are left out.
    """
    series = []
    for target in panel["targets"]:
        query = target["expr"]
        for variable, value in _VARIABLES.items():
            query = query.replace(variable, value)
        asked = {
            "query": query,
            "start": str(began),
            "end": str(began + SECONDS),
            "step": str(STEP),
        }
        async with session.get(f"{url}/api/v1/query_range", params=asked) as answer:
            found = (await answer.json())["data"]["result"]
        for one in found:
            points = [(at - began, float(value)) for at, value in one["values"]]
            if any(value for _, value in points):
                series.append(Series(_called(target["legendFormat"], one["metric"]), points))
    return Panel(panel["title"], panel["fieldConfig"]["defaults"].get("unit", ""), series)


def _called(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    return legend


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
