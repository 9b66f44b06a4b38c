"""The start of a node: HTTP answers before libp2p is loaded, and a signal ends it at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from spegel_py import node
from spegel_py.config import Config
from spegel_py.routing.libp2p import trio_side
from tests.support.images import image, write_layout
from tests.support.routers import Node, found, free_port, until

NAME = "registry.test/app:1"


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have libp2p load once the event is set."""
    go, load = threading.Event(), trio_side._load

    def wait() -> None:
        go.wait(60)
        load()

    monkeypatch.setattr(trio_side, "_load", wait)
    yield go
    go.set()


def _config(folder: Path) -> tuple[Config, str, str]:
    write_layout(folder / "layout", {NAME: image("app")})
    registry, router, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
    flags = {
        "registry_addr": registry,
        "router_addr": router,
        "metrics_addr": metrics,
        "oci_layout": str(folder / "layout"),
        "data_dir": str(folder / "data"),
        "static_bootstrap_peers": [f"/ip4/127.0.0.1/tcp/{router.rpartition(':')[2]}"],
    }
    config = Config.load(flags=flags, environment={}, file=None)
    return config, f"http://{registry}", f"http://{metrics}"


async def _status(url: str) -> int:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


async def _advertised(metrics: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{metrics}/debug/state") as answer:
        return int((await answer.json())["advertised"]["digests"])


async def test_http_answers_and_the_store_is_walked_before_libp2p_is_loaded(
    tmp_path: Path, loading: threading.Event
) -> None:
    """`/livez` and local content do not wait for libp2p, and readiness does; no key is lost."""
    config, registry, metrics = _config(tmp_path)
    running = asyncio.create_task(node.run(config))
    await until(lambda: _is(f"{registry}/livez", 200))
    assert await _status(f"{registry}/readyz") == 500
    assert await _status(f"{registry}/v2/app/manifests/1?ns=registry.test") == 200
    await until(lambda: _has_walked(metrics))
    loading.set()
    peer = Node(bootstrap=config.static_bootstrap_peers)
    async with peer.router.running():
        await until(lambda: _finds(peer))
    os.kill(os.getpid(), signal.SIGTERM)
    await running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_the_middle_of_a_start_ends_it(
    tmp_path: Path, loading: threading.Event, number: signal.Signals
) -> None:
    """At once, without an error, and with its ports closed: the next node can have them."""
    config, registry, _ = _config(tmp_path)
    running = asyncio.create_task(node.run(config))
    await until(lambda: _is(f"{registry}/livez", 200))
    os.kill(os.getpid(), number)
    async with asyncio.timeout(10):
        await running
    assert await _status(f"{registry}/livez") == 0


async def _is(url: str, status: int) -> bool:
    return await _status(url) == status


async def _has_walked(metrics: str) -> bool:
    return await _advertised(metrics) > 0


async def _finds(peer: Node) -> bool:
    return len(await found(peer.router, NAME)) == 1
