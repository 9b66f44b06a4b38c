"""A node that keeps images, in a hurry: `python -m tests.faults.drill.keeping_node registry ...`.

It is the real node, save that its scans and graces take seconds in place of minutes, as forecasts
may. Its registry answers each request late by the seconds in the file `slow` of its data directory.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import patch

from aiohttp import web
from aiohttp.typedefs import Handler

from spegel_py import cli
from spegel_py.assembly import Assembly
from spegel_py.registry.askers import Door

SLOW = "slow"
"""The file with the seconds by which answers are late."""
STEP = "DRILL_STEP"
"""The environment variable with the seconds over which a forecast averages costs."""
GRACE = "DRILL_GRACE"
"""The environment variable with the seconds for which a lost node's only other replica counts."""
QUICK = {
    "spegel_py.replicas.keeper.SCAN": 1.0,
    "spegel_py.replicas.image_state_reader.SCAN": 1.0,
    "spegel_py.replicas.keep_plan.NEW": 2.0,
    "spegel_py.replicas.replica_counts.SHORT_GRACE": float(os.environ.get(GRACE, "3")),
    "spegel_py.replicas.replica_counts.GRACE": 6.0,
    "spegel_py.replicas.keep_requester.MISSED": 8.0,
    "spegel_py.replicas.draining.PEERS": 1.0,
    "spegel_py.health.forecast.STEP": float(os.environ.get(STEP, "10")),
}
"""Seconds in place of the program's own."""

_registry_app = Assembly.registry_app


def _slow_app(self: Assembly, door: Door) -> web.Application:
    assert self.config.data_dir
    path = self.config.data_dir / SLOW

    @web.middleware
    async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(_seconds(path))
        return await handler(request)

    app = _registry_app(self, door)
    app.middlewares.insert(0, slow)
    return app


def _seconds(path: Path) -> float:
    with suppress(OSError, ValueError):
        return float(path.read_text())
    return 0.0


if __name__ == "__main__":
    with ExitStack() as stack:
        for name, seconds in QUICK.items():
            stack.enter_context(patch(name, seconds))
        stack.enter_context(patch.object(Assembly, "registry_app", _slow_app))
        raise SystemExit(cli.main())
