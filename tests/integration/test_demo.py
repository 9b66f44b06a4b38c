"""The demonstration as a user runs it: real processes, a real kill, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

import spegel_py
from spegel_py.demo import demo_node
from spegel_py.demo.demo_cluster import cluster
from spegel_py.demo.demo_node import DemoFailed
from spegel_py.demo.throttled_proxy import PIECE, ThrottledProxy
from tests.support import images
from tests.support.processes import until

MB = 1_000_000


@asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `spegel-py demo` with its nodes' folders below `folder`; it has ended when the block is
    left.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spegel_py", "demo", "--dir", str(folder), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ran(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run it to its end; return exit status, stdout and stderr."""
    async with demo(folder, *arguments) as process, asyncio.timeout(90):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_everything_is_right(tmp_path: Path) -> None:
    """All pull from each other only, a node dies in mid-layer unnoticed, and one JSON object says
    so.
    """
    status, out, err = await ran(tmp_path / "nodes", "--json", "--nodes", "3", "--size", "24")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert out.count("\n") == 1
    assert found["ok"] is True
    assert found["problems"] == []
    assert [each["node"] for each in found["nodes"]] == ["node 2", "node 3", "node 4"]
    for each in found["nodes"]:
        assert sum(each["from_peers"].values()) == each["fetched"] == found["image"]["bytes"]
        assert each["node"] not in each["from_peers"]
        assert each["verified"] == found["image"]["blobs"] + 1
        assert each["upstream_requests"] == 0
    kill = found["kill"]
    assert 0 < kill["at_byte"] < kill["size"]
    assert kill["client_byte"] <= kill["at_byte"]
    assert kill["same_response"] is True
    assert kill["continued_from"] not in (None, kill["node"], "node 4")
    assert 0 <= kill["gap_ms"] < 3000
    assert found["joiner"] == "node 4"
    check_arrival(found["arrival"], {f"node {n}" for n in range(1, 5)} - {kill["node"]})
    per_node = [found["image"]["blobs"] + 1] * 4 + [found["arrival"]["image"]["blobs"] + 1] * 3
    assert found["reverified"] == found["expected"] == sum(per_node)
    assert list((tmp_path / "nodes").iterdir()) == []


def check_arrival(found: dict[str, Any], nodes: set[str]) -> None:
    """All nodes got the new image, which upstream sent about once, no faster than its line; others
    gave the rest.
    """
    size = found["image"]["bytes"]
    assert {each["node"] for each in found["nodes"]} == nodes
    assert all(each["error"] is None and each["fetched"] >= size for each in found["nodes"])
    assert size <= found["upstream_bytes"] < 1.5 * size
    assert sum(each["from_upstream"] for each in found["nodes"]) <= found["upstream_bytes"]
    assert (
        max(each["seconds"] for each in found["nodes"]) > 0.9 * size / MB / found["line_rate_mb_s"]
    )
    assert len(found["tree"]) == found["image"]["blobs"]
    for sources in found["tree"].values():
        assert set(sources) == nodes
        assert "upstream" in sources.values()
        assert nodes & set(sources.values())


async def test_an_image_of_ones_own_and_keep(tmp_path: Path) -> None:
    """An archive is shared under its own name; with --keep its layouts and logs stay; people get a
    table.
    """
    name = "registry.example/team/app:1.0"
    path = images.write_archive(tmp_path / "app.tar", {name: images.image(layers=1, size=16 * MB)})
    status, out, err = await ran(
        tmp_path / "nodes", "--image", str(path), "--nodes", "2", "--rate", "0", "--keep"
    )
    assert (status, err) == (0, "")
    assert name in out
    assert "All was right." in out
    assert "was killed while sending layer" in out
    assert " MB: upstream → node" in out
    assert "× the image for 2 nodes" in out
    [folder] = (tmp_path / "nodes").iterdir()
    assert {each.name for each in folder.iterdir()} == {"node1", "node2", "node3", "upstream"}
    assert all(
        name in (folder / each / "layout" / "index.json").read_text()
        for each in ("node1", "node2", "node3")
    )


@pytest.mark.parametrize(
    ("number", "status", "rate", "at", "count"),
    [
        pytest.param(signal.SIGTERM, 130, "1", b"Phase 1", 3, id="SIGTERM"),
        pytest.param(signal.SIGKILL, -9, "1", b"Phase 1", 3, id="SIGKILL"),
        pytest.param(signal.SIGINT, 130, "0", b"over a line", 4, id="SIGINT while upstream sends"),
    ],
)
async def test_no_process_is_left(
    tmp_path: Path, number: signal.Signals, status: int, rate: str, at: bytes, count: int
) -> None:
    """However and when the demonstration ends, SIGKILL included, its nodes end too; its folder goes
    if it can.
    """
    async with demo(tmp_path / "nodes", "--size", "24", "--rate", rate) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while at not in (line := await process.stdout.readline()):
                assert line, (await process.stderr.read()).decode()
        nodes = children(process.pid)
        assert len(nodes) == count
        process.send_signal(number)
        async with asyncio.timeout(20):
            await process.wait()

        async def are_gone() -> bool:
            return not any(is_running(pid) for pid in nodes)

        await until(are_gone, deadline=10)
        assert process.returncode == status
        assert (await process.stderr.read()) in (b"", b"spegel-py: stopped; all nodes have ended\n")
    if number != signal.SIGKILL:
        assert list((tmp_path / "nodes").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "1"], "--nodes is 2 to 16"),
        (["--size", "1"], "--size is 20MB to"),
        (["--layers", "0"], "--layers is 1 to"),
        (["--rate", "-1"], "--rate: '-1' should be a rate such as 10MB/s or 64MiB/s"),
        (["--image", "/nowhere"], "no such file or folder"),
        (["--image", "/proc/version"], "give an OCI image layout"),
    ],
)
async def test_wrong_arguments(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A wrong argument is one line on stderr and status 2, nothing on stdout with --json, and no
    folder stays.
    """
    status, out, err = await ran(tmp_path / "nodes", "--json", *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "nodes").exists() or list((tmp_path / "nodes").iterdir()) == []


async def test_an_image_without_a_large_layer(tmp_path: Path) -> None:
    """An image in which nobody can be killed in mid-layer is refused before anything is shown."""
    images.write_layout(tmp_path / "small", {"registry.example/app:1": images.image()})
    status, _, err = await ran(tmp_path / "nodes", "--image", str(tmp_path / "small"), "--json")
    assert status == 2
    assert "the largest layer of registry.example/app:1 has" in err


async def test_a_slow_line() -> None:
    """A line passes on all that is said at either end, a hang-up too; when it is taken away its
    calls are cut off.
    """
    said = os.urandom(3 * PIECE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5) + said)
        await reader.read()
        writer.close()

    far = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with asyncio.timeout(20), far:
        async with ThrottledProxy(port=far.sockets[0].getsockname()[1], rate=50 * MB).open() as url:
            near = [await asyncio.open_connection("127.0.0.1", URL(url).port) for _ in range(2)]
            for reader, writer in near:
                writer.write(b"hello")
                assert await reader.readexactly(5 + len(said)) == b"hello" + said
            near[0][1].write_eof()
            assert await near[0][0].read() == b""
        assert await near[1][0].read() == b""
        for _, writer in near:
            writer.close()


async def test_a_port_that_is_taken_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another program took a port first, the nodes are started again on others."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = demo_node.free_ports()
        given = [replace(free, router=taken.getsockname()[1])]
        real = demo_node.free_ports
        monkeypatch.setattr(demo_node, "free_ports", lambda: given.pop() if given else real())
        async with cluster(tmp_path) as made:
            nodes = await made.prepare(1)
            assert nodes[0].ports.router == taken.getsockname()[1]
            await made.start(nodes)
            assert nodes[0].ports.router != taken.getsockname()[1]
            assert nodes[0].pid is not None
    assert nodes[0].pid is None


async def test_a_node_that_dies_is_quoted(tmp_path: Path) -> None:
    """If a node cannot start, the error names it and quotes what it said."""
    async with cluster(tmp_path) as made:
        nodes = await made.prepare(2)
        (nodes[1].layout / "oci-layout").unlink()
        with pytest.raises(
            DemoFailed, match=r"node 2 ended with status 2; its log ends: .*not an OCI image layout"
        ):
            await made.start(nodes)
    assert all(each.pid is None for each in nodes)
