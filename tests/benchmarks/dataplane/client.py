"""Clients of a benchmark, in a process of their own:
`python -m tests.benchmarks.dataplane.client JSON`.

It fetches blobs over several connections at once (`fetch`), times the first byte of one after the
other (`first_byte`), or asks for one path until its stdin is closed (`probe`), and prints what it
found as JSON. Standard library only: it is started for every measurement.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_BUFFER = 256 * 1024
_SILENCE = 15.0
"""Seconds without a byte after which a server is given up."""

_AGAIN = 0.1
"""Seconds before a client asks again where it was refused; a runtime would go upstream."""


class Refused(Exception):
    """Another status than 200 or 206; the connection can be used again."""


class Connection:
    """One kept connection whose bodies are thrown away: by the kernel, or after they were copied
    out of it.
    """

    def __init__(self, address: Sequence[Any], *, is_copying: bool) -> None:
        self._socket = socket.create_connection(
            (str(address[0]), int(address[1])), timeout=_SILENCE
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._flags = 0 if is_copying else socket.MSG_TRUNC  # tcp(7): discarded, not copied
        self._buffer = bytearray(_BUFFER)

    def get(self, path: str, *, start: int = 0, until: float = float("inf")) -> tuple[int, float]:
        """Return the bytes of the body and when its first one came; past `until` it is cut, with
        the connection.

        Raises Refused, and OSError where the body ends short.
        """
        ranges = f"Range: bytes={start}-\r\n" if start else ""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{ranges}\r\n".encode())
        status, length, received = self._head()
        first = time.perf_counter() if received else 0.0
        while received < length:
            count = self._socket.recv_into(
                self._buffer, min(_BUFFER, length - received), self._flags
            )
            now = time.perf_counter()
            first = first or now
            received += count
            if now > until:
                self._socket.close()
                break
            if not count:
                raise ConnectionError(f"{path}: {received} of {length} bytes")
        if status not in ("200", "206"):
            raise Refused(f"{path}: {status}")
        return received, first

    def _head(self) -> tuple[str, int, int]:
        """Read the head; return the status, the length of the body and how much of it came
        along.
        """
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError(f"no head, but {data!r}")
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines)
        return status.split()[1], int(fields["content-length"]), len(body)


def fetch(task: dict[str, Any]) -> dict[str, Any]:
    """Fetch a path `requests` times on each of several connections, which start at each of `starts`
    in the content.
    """
    connections = [(_connect(task), start) for start in task["starts"]]
    received: list[int] = []
    refused: list[Refused] = []
    begin = time.perf_counter()
    until = begin + task["longest"]

    def work(connection: Connection, start: int) -> None:
        left = task["requests"]
        while left and time.perf_counter() < until:
            try:
                received.append(connection.get(task["path"], start=start, until=until)[0])
                left -= 1
            except Refused as error:
                refused.append(error)
                time.sleep(_AGAIN)

    _all(lambda pair: work(*pair), connections)
    return {"bytes": sum(received), "seconds": time.perf_counter() - begin, "refused": len(refused)}


def first_byte(task: dict[str, Any]) -> dict[str, Any]:
    """Time the first byte of so many bodies, one after the other on one connection."""
    connection = _connect(task)
    times = []
    for _ in range(task["requests"]):
        begin = time.perf_counter()
        times.append(connection.get(task["path"])[1] - begin)
    return {"times": times}


def probe(task: dict[str, Any]) -> dict[str, Any]:
    """Time whole answers on one connection, with a pause between them, until stdin is closed."""
    connection = _connect(task)
    times = []
    while not select.select([sys.stdin], [], [], task["pause"])[0]:
        begin = time.perf_counter()
        connection.get(task["path"])
        times.append(time.perf_counter() - begin)
    return {"times": times}


def _connect(task: dict[str, Any]) -> Connection:
    return Connection(task["address"], is_copying=task["is_copying"])


def _all(function: Callable[[Any], None], each: Sequence[Any]) -> None:
    """Call a function with each of these at the same time; the first failure is raised."""
    failures: list[Exception] = []

    def call(one: Any) -> None:
        try:
            function(one)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(one,)) for one in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(
        json.dumps({"fetch": fetch, "first_byte": first_byte, "probe": probe}[given["do"]](given))
    )
