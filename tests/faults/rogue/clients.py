"""The attacks of a rogue HTTP client. Each goes on until it is cancelled. On Trio."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import trio

from tests.faults.rogue.environment import Environment


async def unfinished_heads(env: Environment) -> None:
    """Send large request heads that never end, to the registry port and the metrics port."""
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 8000) for number in range(120))
    await _hold(env, 300, (5000, 9090), b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + fields)


async def idle_connections(env: Environment) -> None:
    """Open 1,100 connections to each port, and send nothing."""
    await _hold(env, 1100, (5000, 9090), b"")


async def slow_readers(env: Environment) -> None:
    """Request the largest layer 200 times, without and with the loop guard, and hardly read."""
    path = f"/v2/any/blobs/{env.largest}"
    for guard in ("", "X-Spegel-Mirrored: true\r\n"):
        with trio.move_on_after(10):
            await _hold(
                env,
                200,
                (5000,),
                f"GET {path} HTTP/1.1\r\nHost: x\r\n{guard}\r\n".encode(),
                window=4096,
            )


async def _hold(
    env: Environment, number: int, ports: Sequence[int], data: bytes, *, window: int | None = None
) -> None:
    """Hold this many connections to each port of every target, after sending `data` on each."""
    with _HeldSockets() as held:
        for target in env.targets:
            for port in ports:
                await trio.to_thread.run_sync(held.open, target, port, number, data, window)
        await trio.sleep_forever()


class _HeldSockets:
    """Sockets that are closed at the end."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._sockets:
            client.close()

    def open(self, target: str, port: int, number: int, data: bytes, window: int | None) -> None:
        """Connect up to `number` times, as far as the target accepts it."""
        for _ in range(number):
            client = socket.socket()
            self._sockets.append(client)
            client.settimeout(2)
            if window is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            with suppress(OSError):
                client.connect((target, port))
                client.settimeout(0.2)
                client.sendall(data)
