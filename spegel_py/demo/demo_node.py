"""A node of the demonstration: a real process with its own folder."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

import spegel_py
from spegel_py.demo import launch, node_log, probe
from spegel_py.demo.node_log import LogEvent, LogTail, parse
from spegel_py.errors import SpegelError

START = 30.0
"""Seconds for a node to come up.

It takes two on an idle core, but all nodes start at once, on two cores that others use too.
"""

STOP = 6.0
"""Seconds from SIGTERM to SIGKILL, in which a node leaves its peers and drains its transfers."""

POLL = 0.05
"""Seconds between two checks of a condition."""

LINES = 8
"""Number of last log lines that an error quotes."""

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class DemoFailed(SpegelError):
    """The demonstration failed; the text names the node and the reason."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a node on 127.0.0.1."""

    registry: int
    router: int
    metrics: int


def free_ports() -> Ports:
    """Return three ports that were free just now.

    Another program may take one first, so a start must be retried.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return Ports(*(each.getsockname()[1] for each in sockets))


class DemoNode:
    """A `spegel-py registry` process that serves an image layout on the loopback interface."""

    def __init__(self, *, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.layout = folder / "layout"
        self.log = folder / "node.log"
        self.ports = free_ports()
        self.tail = LogTail(self.log)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<DemoNode {self.name} pid={self.pid} {self.ports}>"

    @property
    def address(self) -> str:
        """Host and port of the node's registry, as in other nodes' logs."""
        return f"127.0.0.1:{self.ports.registry}"

    @property
    def mirror(self) -> str:
        """URL of the node's registry, for its own pulls."""
        return f"http://{self.address}"

    @property
    def metrics(self) -> str:
        """URL of the node's metrics."""
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int | None:
        """The node's process id; None while it does not run."""
        return (
            self._process.pid
            if self._process is not None and self._process.poll() is None
            else None
        )

    def events(self) -> list[LogEvent]:
        """Return all events that the node has logged."""
        return parse(self.log.read_text(errors="replace").splitlines())

    def start(self, *, bootstrap: int) -> None:
        """Start the process; `bootstrap` is the router port of the first node."""
        command = [
            sys.executable,
            "-E",
            "-S",
            launch.__file__,
            str(os.getpid()),
            *self._arguments(bootstrap),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - no shell, nothing from outside
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C must not reach it
            )
        self.tail = LogTail(self.log)

    def move(self) -> None:
        """Choose other ports for the next start."""
        self.ports = free_ports()

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until the node serves. Raises PortTaken, or DemoFailed with its last log lines."""

        async def is_up() -> bool:  # /livez answers before the router listens
            return await probe.answers(session, self.mirror + "/livez") and node_log.is_up(
                self.events()
            )

        await self.until(is_up, "did not come up", deadline=START)

    async def joined(self, session: aiohttp.ClientSession, *, peers: int, records: int) -> None:
        """Wait until the node has this many peers, and this many records of their content."""

        async def is_joined() -> bool:
            values = await probe.metrics(session, self.metrics)
            return (
                values.get("spegel_connected_peers", 0) >= peers
                and values.get("spegel_records_held", 0) >= records
            )

        await self.until(
            lambda: probe.answers(session, self.mirror + "/readyz"),
            "found no other node",
            deadline=START,
        )
        await self.until(
            is_joined, f"did not find {peers} nodes with {records} records", deadline=START
        )

    async def until(
        self, condition: Callable[[], Awaitable[bool]], failure: str, *, deadline: float
    ) -> None:
        """Wait for a condition. Raises DemoFailed after `deadline` seconds, or if the node ends."""
        end = time.monotonic() + deadline
        while not await condition():
            if self.pid is None:
                raise self._ended()
            if time.monotonic() > end:
                raise DemoFailed(
                    f"{self.name} {failure} within {deadline:.0f} s; {self.last_lines()}"
                )
            await asyncio.sleep(POLL)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()

    async def wait_ended(self) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """Stop the process with SIGTERM, and after STOP seconds with SIGKILL."""
        if self._process is None or self.pid is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            await self.wait_ended()

    def last_lines(self) -> str:
        """Return the last lines of the log, for an error."""
        lines = (
            self.log.read_text(errors="replace").splitlines()[-LINES:] if self.log.exists() else []
        )
        return "its log ends: " + " | ".join(lines) if lines else "it logged nothing"

    def _ended(self) -> DemoFailed:
        lines, status = (
            self.last_lines(),
            self._process.poll() if self._process is not None else None,
        )
        kind = (
            PortTaken
            if "the port is in use" in lines or "Address already in use" in lines
            else DemoFailed
        )
        return kind(f"{self.name} ended with status {status}; {lines}")

    def _arguments(self, bootstrap: int) -> list[str]:
        options = {
            "oci-layout": str(self.layout),
            "registry-addr": self.address,
            "router-addr": f"127.0.0.1:{self.ports.router}",
            "metrics-addr": f"127.0.0.1:{self.ports.metrics}",
            "bootstrap-kind": "static",
            "static-bootstrap-peers": f"/ip4/127.0.0.1/tcp/{bootstrap}",
            "share-in-flight": "true",
            "data-dir": str(self.folder / "data"),
            "log-format": "json",
            "log-level": "DEBUG",
        }
        return [
            "registry",
            *(text for name, value in options.items() for text in (f"--{name}", value)),
        ]


class PortTaken(DemoFailed):
    """Another program took one of the node's ports first; other ports will do."""


def _environment() -> dict[str, str]:
    """Return the environment of a node, without settings of nodes (LOG_LEVEL, DATA_DIR, …)."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(("PYTHON", "LC_"))
    }
    paths = [str(Path(spegel_py.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
