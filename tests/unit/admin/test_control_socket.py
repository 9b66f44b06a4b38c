"""The control socket: who can open it, and what it answers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from spegel_py.admin.control_app import create_control_app
from spegel_py.admin.control_socket import MAX_BODY, serve_control
from spegel_py.errors import ConfigError
from tests.support.images import image
from tests.unit.preheat.preheated import Preheated, preheated


@asynccontextmanager
async def controlled(node: Preheated, path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve a node's control socket, and give a client of it."""
    task = asyncio.create_task(node.jobs.run())
    try:
        async with (
            serve_control(create_control_app(preheat=node.jobs, evacuation=node.evacuation), path),
            aiohttp.ClientSession(
                "http://localhost", connector=aiohttp.UnixConnector(str(path))
            ) as client,
        ):
            yield client
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_only_its_owner_can_open_it_and_it_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with preheated() as node, controlled(node, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [one.name for one in tmp_path.iterdir()] == ["control.sock"]
    assert list(tmp_path.iterdir()) == []


async def test_a_job_over_http(tmp_path: Path) -> None:
    """Programs begin, follow and cancel it. The kernel says which user that was."""
    one = image()
    async with preheated(one) as node, controlled(node, tmp_path / "c") as client:
        body = {"images": [node.name()], "platform": "linux/amd64"}
        async with client.post("/control/preheat", json=body) as answer:
            assert answer.status == 202
            job = await answer.json()
        where = f"/control/preheat/{job['id']}"
        while job["state"] in ("pending", "running"):
            job = await (await client.get(where)).json()
        assert job["state"] == "succeeded"
        assert job["actor"] == f"uid {os.getuid()}"
        listed = await (await client.get("/control/preheat")).json()
        assert listed == {"jobs": [job], "list": None}
        cancelled = await (await client.delete(where)).json()
        assert cancelled["state"] == "cancelled"
        assert node.is_empty()
        assert {action["actor"] for action in node.actions} == {f"uid {os.getuid()}"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/control/preheat", b"{", 400, "the body should be JSON"),
        ("POST", "/control/preheat", b"[" * 100_000, 400, "the body should be JSON"),
        ("POST", "/control/preheat", b"{}", 400, "images: it should be a list"),
        ("POST", "/control/preheat", b" " * (MAX_BODY + 1), 400, "more than 262144 bytes"),
        ("GET", "/control/preheat/abc", b"", 404, "there is no pre-heat job 'abc'"),
        ("DELETE", "/control/preheat/abc", b"", 404, "there is no pre-heat job 'abc'"),
        ("PUT", "/control/preheat", b"", 405, "'PUT' is not served here"),
        ("GET", "/metrics", b"", 404, "no such endpoint"),
    ],
)
async def test_wrong_requests_are_answered_with_the_fault(
    tmp_path: Path, method: str, path: str, body: bytes, status: int, message: str
) -> None:
    async with (
        preheated() as node,
        controlled(node, tmp_path / "c") as client,
        client.request(method, path, data=body) as answer,
    ):
        assert answer.status == status
        assert message in (await answer.json())["errors"][0]["message"]


async def test_a_socket_that_was_left_is_replaced(tmp_path: Path) -> None:
    """A process that was killed leaves it. A later process keeps its own."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with preheated() as node, controlled(node, path):
        async with controlled(node, path) as client:
            assert (await client.get("/control/preheat")).status == 200
            path.rename(tmp_path / "kept")
            path.touch()
        assert path.exists()


async def test_a_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    async with preheated() as node:
        app = create_control_app(preheat=node.jobs, evacuation=node.evacuation)
        file = tmp_path / "file"
        file.touch()
        for path, fault in (
            (tmp_path / ("x" * 120), "is too long"),
            (tmp_path / "missing" / "c", "No such file"),
            (file, "exists, and is no socket"),
        ):
            with pytest.raises(ConfigError, match=f"^--control-socket: .*{fault}"):
                async with serve_control(app, path):
                    pass
        assert list(tmp_path.iterdir()) == [file]
