"""One node of the demonstration: a real process with a folder of its own, ended by its id."""

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
from spegel_py.demo import journal, launch, probe
from spegel_py.demo.journal import Event, Tail, parse
from spegel_py.errors import SpegelError

START = 30.0
"""Seconds for a node to come up: two on an idle core, but all nodes start at once, on two cores that are shared."""

STOP = 6.0
"""Seconds from SIGTERM to SIGKILL; a node says goodbye to its peers and drains within that."""

POLL = 0.05
"""Seconds between two looks at something that is waited for."""

LINES = 8
"""Last lines of a node's log that an error quotes."""

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class DemoFailed(SpegelError):
    """The demonstration could not be carried out; the text says what went wrong where."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a node listens on 127.0.0.1."""

    registry: int
    router: int
    metrics: int


def free_ports() -> Ports:
    """Return three ports that were free a moment ago; another program may be quicker, so a start is retried."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return Ports(*(each.getsockname()[1] for each in sockets))


class Node:
    """A `spegel-py registry` over an image layout, on the loopback interface."""

    def __init__(self, *, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.layout = folder / "layout"
        self.log = folder / "node.log"
        self.ports = free_ports()
        self.tail = Tail(self.log)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<Node {self.name} pid={self.pid} {self.ports}>"

    @property
    def address(self) -> str:
        """Its registry's host and port, as other nodes' logs name it."""
        return f"127.0.0.1:{self.ports.registry}"

    @property
    def mirror(self) -> str:
        """The URL that its own pulls go to."""
        return f"http://{self.address}"

    @property
    def metrics(self) -> str:
        """The URL of its meters."""
        return f"http://127.0.0.1:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return (
            self._process.pid
            if self._process is not None and self._process.poll() is None
            else None
        )

    def events(self) -> list[Event]:
        """Return all that it has logged."""
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
                start_new_session=True,  # Ctrl-C is for us: we end it in order
            )
        self.tail = Tail(self.log)

    def move(self) -> None:
        """Take other ports for the next start."""
        self.ports = free_ports()

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Wait until it serves. Raises PortTaken, or DemoFailed with its last words."""

        async def is_up() -> bool:  # it is live before it has its router's port
            return await probe.answers(session, self.mirror + "/livez") and journal.is_up(
                self.events()
            )

        await self.until(is_up, "did not come up", deadline=START)

    async def joined(self, session: aiohttp.ClientSession, *, peers: int, records: int) -> None:
        """Wait until it is connected to so many others and knows so many records of who holds what."""

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
        """Wait for a condition; raises DemoFailed if it does not come true in so many seconds, or the node ends."""
        end = time.monotonic() + deadline
        while not await condition():
            if self.pid is None:
                raise self._ended()
            if time.monotonic() > end:
                raise DemoFailed(
                    f"{self.name} {failure} within {deadline:.0f} s; {self.last_words()}"
                )
            await asyncio.sleep(POLL)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()

    async def gone(self) -> None:
        """Wait until it has ended, which after SIGKILL it must."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if that takes too long."""
        if self._process is None or self.pid is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            await self.gone()

    def last_words(self) -> str:
        """Return the end of its log, for an error."""
        lines = (
            self.log.read_text(errors="replace").splitlines()[-LINES:] if self.log.exists() else []
        )
        return "its log ends: " + " | ".join(lines) if lines else "it logged nothing"

    def _ended(self) -> DemoFailed:
        words, status = (
            self.last_words(),
            self._process.poll() if self._process is not None else None,
        )
        kind = (
            PortTaken
            if "the port is in use" in words or "Address already in use" in words
            else DemoFailed
        )
        return kind(f"{self.name} ended with status {status}; {words}")

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
    """Another program was quicker to take a port; other ports will do."""


def _environment() -> dict[str, str]:
    """Return what a node gets of our environment: nothing that is a setting of its own (LOG_LEVEL, DATA_DIR, …)."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(("PYTHON", "LC_"))
    }
    paths = [str(Path(spegel_py.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
