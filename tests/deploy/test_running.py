"""A node that runs on a rendered command line: it answers the rendered probes and exports what the
dashboard shows.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.chart import SPEGEL_DEFAULTS, Helm, Values, arguments, load, named
from tests.deploy.test_monitoring import EXPRESSIONS, selectors
from tests.support.containerd import Daemon, running_daemon
from tests.support.processes import Process, until
from tests.support.routers import free_port

pytestmark = pytest.mark.timeout(900)  # the first of them builds Helm


async def status(url: str) -> int | None:
    """Return what a GET is answered with; None without an answer."""
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status
    except aiohttp.ClientError:
        return None


async def text(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    """A containerd: a node without one is not ready."""
    async with running_daemon() as made:
        yield made


@pytest.mark.root
@pytest.mark.parametrize(
    "values",
    [
        {},
        load(SPEGEL_DEFAULTS),
        {"livenessProbe": {"enabled": True}, "spegel": {"verifyBlobs": "all"}},
    ],
    ids=["nothing", "Spegel's defaults", "settings of ours"],
)
async def test_a_rendered_command_line_starts_a_node(
    helm: Helm, daemon: Daemon, tmp_path: Path, values: Values
) -> None:
    """All flags as the chart gives them, but for places: ports and folders of the test, and no
    cluster's names.
    """
    registry = named(helm.template(values), "registry")
    ports = {name: free_port() for name in ("registry", "router", "metrics")}
    places = [
        *(f"--{name}-addr=127.0.0.1:{port}" for name, port in ports.items()),
        f"--data-dir={tmp_path / 'data'}",
        f"--containerd-sock={daemon.socket}",
        f"--containerd-content-path={daemon.content_path}",
        "--dns-bootstrap-domain=localhost",
    ]
    command = [
        sys.executable,
        "-m",
        "spegel_py",
        *arguments(registry),
        *places,
        "--ready-when-alone=0",
    ]
    node = Process(command=command, log=tmp_path / "log")

    async def answers(probe: str) -> bool:
        port = ports[registry[probe]["httpGet"]["port"]]
        return await status(f"http://127.0.0.1:{port}{registry[probe]['httpGet']['path']}") == 200

    async def is_over() -> bool:
        return node.pid is None

    await node.start(lambda: answers("startupProbe"))
    try:
        await until(lambda: answers("readinessProbe"))
        exposition = await text(f"http://127.0.0.1:{ports['metrics']}/metrics")
        assert asked() <= set(re.findall(r"^# TYPE (\S+)", exposition, re.MULTILINE))
        node.send(signal.SIGTERM)
        await until(is_over, deadline=10.0)
        assert '"stopped"' in node.output
    finally:
        await node.end(signal.SIGKILL)


def asked() -> set[str]:
    """Return the metrics that the dashboard and the rules ask for, as the exposition names them."""
    names = {
        selector.name or ""
        for expression in EXPRESSIONS.values()
        for selector in selectors(expression)
    }
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
