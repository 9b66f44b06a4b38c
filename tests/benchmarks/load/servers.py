"""The nodes under load: each on an address of its own in one network namespace, with the same
ports.

The addresses are none of 127.0.0.0/8, since a node takes clients from there for its own host's, and
since Spegel tells nobody of such an address.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from spegel_py.oci.build import Image
from tests.benchmarks import machine
from tests.benchmarks.load.content import Content
from tests.support import images
from tests.support.containerd import Daemon
from tests.support.processes import Process, run, until

SPEGEL = os.environ.get("SPEGEL_BIN", "")
"""Spegel's binary; without one only this program is measured."""

HOST, PEER = "10.77.0.1", "10.77.0.2"
REGISTRY, ROUTER, METRICS = 5000, 5001, 9090
SOURCES = [f"10.77.1.{number}" for number in range(1, 51)]
"""The clients' addresses: 40 connections from each, two of them slow."""

_START = 60.0
"""Seconds for a node to start, and to serve all that it has to."""


async def prepare_network() -> None:
    """Give loopback the addresses; this process must be in a network namespace of its own."""
    await run("ip", "link", "set", "lo", "up")
    for address in (
        f"{HOST}/32",
        f"{PEER}/32",
        f"{SOURCES[0]}/24",
    ):  # all of a /24 on loopback is local
        await run("ip", "address", "add", address, "dev", "lo")


@asynccontextmanager
async def ours(
    folder: Path, these: Mapping[str, Image], content: Content, *, relayed: bool
) -> AsyncIterator[Process]:
    """Run this program on a layout with the images, or on an empty one beside a peer that has
    them.
    """
    async with AsyncExitStack() as stack:
        if relayed:
            await _peer(stack, folder, these)
        layout = folder / "layout"
        images.write_layout(layout, {} if relayed else dict(these))
        flags = {
            "oci-layout": layout,
            "static-bootstrap-peers": f"/ip4/{PEER if relayed else HOST}/tcp/{ROUTER}",
        }
        node = _node(folder, "node", HOST, [sys.executable, "-m", "spegel_py"], flags)
        stack.push_async_callback(node.end)
        await _start(node, content)
        yield node


@asynccontextmanager
async def spegel(
    folder: Path, these: Mapping[str, Image], content: Content, *, relayed: bool
) -> AsyncIterator[Process]:
    """Run Spegel, which reads containerd's content alone, beside a node of this program."""
    async with AsyncExitStack() as stack:
        peer_id = await _peer(stack, folder, these if relayed else {})
        daemon = Daemon(folder=folder / "containerd", has_cri=False)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        if not relayed:
            await daemon.load(dict(these))
        flags = {
            "containerd-sock": daemon.socket,
            "containerd-content-path": daemon.content_path,
            "bootstrap-kind": "static",
            "static-bootstrap-peers": f"/ip4/{PEER}/tcp/{ROUTER}/p2p/{peer_id}",
        }
        node = _node(folder, "spegel", HOST, [SPEGEL], flags)
        stack.push_async_callback(node.end)
        await _start(node, content)
        yield node


async def _peer(stack: AsyncExitStack, folder: Path, these: Mapping[str, Image]) -> str:
    """Run a node with these images that stands for all other nodes of a cluster; return its id.

    Its limit for one other node is lifted, because one node pulls from it what it would pull from
    many.
    """
    layout = folder / "peer-layout"
    images.write_layout(layout, dict(these))
    flags = {
        "oci-layout": layout,
        "static-bootstrap-peers": f"/ip4/{PEER}/tcp/{ROUTER}",
        "max-transfers-per-peer": 0,
    }
    peer = _node(folder, "peer", PEER, [sys.executable, "-m", "spegel_py"], flags)
    stack.push_async_callback(peer.end)
    await peer.start(lambda: _answers(PEER, REGISTRY, "/livez"), deadline=_START)
    state = await asyncio.to_thread(_ask, PEER, METRICS, "/debug/state")
    return str(json.loads(state[1])["id"])


def _node(
    folder: Path, name: str, host: str, program: list[str], flags: Mapping[str, object]
) -> Process:
    everything = {
        **flags,
        "registry-addr": f"{host}:{REGISTRY}",
        "router-addr": f"{host}:{ROUTER}",
        "metrics-addr": f"{host}:{METRICS}",
        "data-dir": folder / f"{name}-data",
    }
    options = [text for flag, value in everything.items() for text in (f"--{flag}", str(value))]
    return Process(
        command=[*program, "registry", *options],
        log=folder / f"{name}.log",
        environment={"PYTHONPATH": str(machine.ROOT)},
    )


async def _start(node: Process, content: Content) -> None:
    """Start a node and wait until it offers every part, of which it has sent none then."""
    await node.start(lambda: _answers(HOST, REGISTRY, "/v2/"), deadline=_START)

    async def offers_all() -> bool:
        parts = (*content.manifests, *content.layers, content.large)
        return all([await _answers(HOST, REGISTRY, part.path, "HEAD") for part in parts])

    await until(offers_all, deadline=_START, pause=0.5)


async def _answers(host: str, port: int, path: str, method: str = "GET") -> bool:
    return (await asyncio.to_thread(_ask, host, port, path, method))[0] == 200


def _ask(host: str, port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Return the status and the body of an answer; 0 and nothing where there is none."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
