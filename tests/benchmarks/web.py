"""How soon Chromium paints the status page, with ten nodes and a thousand images, and what looking
at it costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from playwright.async_api import Browser

from spegel_py.oci.build import Image
from tests.benchmarks import machine, nodes
from tests.benchmarks.figures import Figure, latencies
from tests.benchmarks.nodes import Node
from tests.browser.chromium import chromium, look
from tests.support import images

NODES, IMAGES = 10, 1000

SHARED = 20
"""Of them, so many are at all other nodes too."""

PAINT = """() => new Promise((resolve) => {
    const whole = performance.getEntriesByType("navigation")[0].responseEnd;
    new PerformanceObserver((list) => {
        const first = list.getEntriesByName("first-contentful-paint")[0];
        if (first) resolve({ whole, paint: first.startTime });
    })
    .observe({ type: "paint", buffered: true });
})"""
"""Gives when there was first something to see, and when all of the page had come."""

TARGET = 300.0
"""Milliseconds from the start of the navigation to the first paint with content."""


async def measure(*, is_quick: bool) -> list[Figure]:
    """Load the page of one of ten nodes in fresh profiles, the first time in the node's life
    counted by itself.
    """
    loads, seconds = (5, 10.0) if is_quick else (30, 30.0)
    everything = {
        f"registry.test/web/app{n:04}:1": images.image(f"web/{n}", layers=1, size=256)
        for n in range(IMAGES)
    }
    shared = dict(list(everything.items())[:SHARED])
    contents: list[Mapping[str, Image]] = [everything, *[shared] * (NODES - 1)]
    async with nodes.cluster(contents) as cluster, chromium() as browser:
        await nodes.told(cluster, (NODES - 1) * sum(map(nodes.records, contents)))
        node = cluster[0]
        url = f"http://127.0.0.1:{node.metrics}/debug/web/"
        async with look(browser, "about:blank"):
            pass  # the browser's own first page is none of ours
        first = await _paint(browser, url)
        paints = [await _paint(browser, url) for _ in range(loads)]
        shares = await _shares(browser, node, url, seconds)
    return summarise(first, paints, shares, seconds)


def summarise(
    first: Mapping[str, float],
    paints: list[Mapping[str, float]],
    shares: Mapping[str, float],
    seconds: float,
) -> list[Figure]:
    """Return the figures; times are in milliseconds."""
    conditions = f"{NODES} nodes, {IMAGES} images, over loopback"
    return [
        Figure(
            name="first paint of the status page",
            conditions=conditions,
            unit="ms",
            values={
                "first load": first["paint"],
                **latencies([each["paint"] / 1000 for each in paints]),
            },
            targets={"first load": TARGET, "max": TARGET},
            samples=len(paints) + 1,
        ),
        Figure(
            name="all of the page received",
            conditions=conditions,
            unit="ms",
            values={
                "first load": first["whole"],
                **latencies([each["whole"] / 1000 for each in paints]),
            },
            samples=len(paints) + 1,
        ),
        Figure(
            name="CPU of the node",
            conditions=f"{conditions}, {seconds:.0f} s each",
            unit="% of a core",
            values=shares,
        ),
    ]


async def _paint(browser: Browser, url: str) -> Mapping[str, float]:
    async with look(browser, url) as seen:
        found: dict[str, float] = await seen.page.evaluate(PAINT)
    return found


async def _shares(browser: Browser, node: Node, url: str, seconds: float) -> Mapping[str, float]:
    before = await _used(node, seconds)
    async with look(browser, url) as seen:
        await seen.page.get_by_text("live", exact=True).wait_for()
        looked_at = await _used(node, seconds)
    return {
        "nobody looks": before,
        "one looks": looked_at,
        "nobody looks any more": await _used(node, seconds),
    }


async def _used(node: Node, seconds: float) -> float:
    began, used = time.monotonic(), machine.cpu_seconds(node.pid)
    await asyncio.sleep(seconds)
    return 100 * (machine.cpu_seconds(node.pid) - used) / (time.monotonic() - began)
