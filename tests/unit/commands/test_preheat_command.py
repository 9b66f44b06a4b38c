"""`preheat` as a person meets it, asked of a control socket that is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spegel_py.admin.control_app import create_control_app
from spegel_py.admin.control_socket import serve_control
from spegel_py.cli import main
from spegel_py.commands.preheat_progress import PreheatBars
from tests.support.images import image
from tests.unit.preheat.preheated import Preheated, preheated

Command = Callable[..., Awaitable[tuple[int, str, str]]]


@asynccontextmanager
async def commanded(
    node: Preheated, path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Command]:
    """Serve a node's control socket, and give a function that runs `preheat`."""
    task = asyncio.create_task(node.jobs.run())

    async def run(*arguments: str) -> tuple[int, str, str]:
        socket = ("--control-socket", str(path))
        status = await asyncio.to_thread(main, ["preheat", *arguments, *socket])
        out, err = capsys.readouterr()
        return status, out, err

    try:
        async with serve_control(
            create_control_app(preheat=node.jobs, evacuation=node.evacuation), path
        ):
            yield run
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_job_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe each change is a line, and the last one says the result."""
    async with preheated(image()) as node, commanded(node, tmp_path / "c", capsys) as preheat:
        given = (node.name(), "--platform", "linux/amd64", "--wait")
        status, out, _ = await preheat(*given)
        assert status == 0
        assert "worker-1 (10.0.0.1): done" in out
        assert "succeeded, 1 of 1 ready after" in out.splitlines()[-1]
        status, out, _ = await preheat(*given, "--json")
        assert status == 0
        assert json.loads(out.splitlines()[-1])["state"] == "succeeded"


async def test_a_job_that_failed_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with preheated(image()) as node, commanded(node, tmp_path / "c", capsys) as preheat:
        status, out, _ = await preheat(node.name("none"), "--wait")
        assert status == 1
        assert "not-found" in out
        assert "failed, 0 of 0 ready" in out
        status, out, _ = await preheat(node.name(), "--platform", "linux/s390x", "--wait")
        # an image without an index is for every platform
        assert status == 0


async def test_jobs_are_listed_shown_and_cancelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with preheated(image()) as node, commanded(node, tmp_path / "c", capsys) as preheat:
        assert "was asked for no pre-heat" in (await preheat("ls"))[1]
        _, out, _ = await preheat(node.name(), "--platform", "linux/amd64")
        job = out.split()[1].rstrip(":")
        status, out, err = await preheat("status", job, "--wait")
        assert status == 0, (out, err, node.jobs.get(job).as_json())
        _, out, _ = await preheat("ls")
        assert job in out
        assert node.name() in out
        _, out, _ = await preheat("status", job)
        assert "10.0.0.1" in out
        status, out, _ = await preheat("cancel", job)
        assert (status, "cancelled" in out) == (0, True)
        assert node.is_empty()


@pytest.mark.parametrize(
    ("arguments", "status", "fault"),
    [
        (("app",), 2, "images: name the registry: registry.example/app"),
        (("r.example/app:1", "--keep", "soon"), 2, "keep: 'soon' should be a duration"),
        (("r.example/app:1", "--nodes", "x"), 2, "nodes: there is no node 'x'"),
        (("r.example/app:1", "--depth", "all"), 2, "depth: 'all' is no depth"),
        (("r.example/app:1", "--pin"), 2, "pin: only an image of depth runtime"),
        (("ls", "all"), 2, "write preheat ls, with nothing else"),
        (("cancel",), 2, "write preheat cancel ID"),
        (("status", "abc"), 1, "there is no pre-heat job 'abc'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_wrong_words_are_answered_with_the_fault(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    fault: str,
) -> None:
    async with preheated() as node, commanded(node, tmp_path / "c", capsys) as preheat:
        found, _, err = await preheat(*arguments)
        assert (found, fault in err) == (status, True), err


async def test_a_missing_socket_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control.sock"
    arguments = ["preheat", "ls", "--control-socket", str(path)]
    assert await asyncio.to_thread(main, arguments) == 1
    assert "it is not there: does the node run" in capsys.readouterr().err
    path.touch()
    assert await asyncio.to_thread(main, arguments) == 1
    assert "no node listens there any more" in capsys.readouterr().err


def test_bars_show_every_node() -> None:
    """On a terminal each node has a bar with its state."""
    console = Console(force_terminal=True, width=100, record=True)
    job: dict[str, Any] = {
        "nodes": {"12D3KooW-aaaaaaaa": "10.0.0.1", "12D3KooW-bbbbbbbb": ""},
        "images": [
            {
                "image": "registry.example/app:1",
                "why": "",
                "nodes": {
                    "12D3KooW-aaaaaaaa": {
                        "state": "taking",
                        "done": 5,
                        "total": 10,
                        "why": "",
                        "error": "",
                    },
                    "12D3KooW-bbbbbbbb": {
                        "state": "refused",
                        "done": 0,
                        "total": 0,
                        "why": "no-room",
                        "error": "full",
                    },
                },
            },
            {
                "image": "registry.example/none:1",
                "why": "not-found",
                "error": "nobody has it",
                "nodes": {},
            },
        ],
    }
    with PreheatBars(console) as show:
        show(job)
        show(job)
    text = console.export_text()
    assert "10.0.0.1 app:1" in text
    assert "refused: no-room" in text
    assert text.count("registry.example/none:1: not-found: nobody has it") == 1
