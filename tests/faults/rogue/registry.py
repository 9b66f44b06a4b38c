"""A rogue registry: an HTTP server in threads that answers requests for content wrongly."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SMALL = 4 * 1024 * 1024
"""Bytes up to which a node verifies a blob before it passes on the first byte.

The rogue sends wrong bytes for such blobs only: no node can detect them in time in larger ones.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with the size and the bytes of the requested content if the rogue has it."""

    method: str
    path: str
    size: int
    data: bytes = field(default=b"", repr=False)

    @property
    def is_manifest(self) -> bool:
        return "/manifests/" in self.path

    @property
    def reference(self) -> str:
        """The requested digest or tag."""
        return self.path.partition("?")[0].rpartition("/")[2]


Answer = Callable[[Request], Iterable[bytes]]
"""Yields the bytes of an answer, including its head."""


def head(status: int | str = 200, **fields: object) -> bytes:
    """Return the head of an answer; underscores in field names become hyphens."""
    lines = [
        f"HTTP/1.1 {status} X",
        *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def honest_head(request: Request, **fields: object) -> bytes:
    """Return the head that an honest node sends, with these fields changed."""
    kind = MANIFEST if request.is_manifest else "application/octet-stream"
    honest = {
        "Content_Type": kind,
        "Content_Length": request.size,
        "Docker_Content_Digest": request.reference,
    }
    return head(200, **(honest | fields))


def _altered(body: Answer, **fields: object) -> Answer:
    """Return the answer with an honest head, save for these fields, and this body."""
    return lambda request: _body(request, honest_head(request, **fields), body(request))


def _body(request: Request, head: bytes, pieces: Iterable[bytes]) -> Iterable[bytes]:
    yield head
    if request.method != "HEAD":
        yield from pieces


def _trickle(data: bytes, count: int, pause: float) -> Iterable[bytes]:
    for start in range(0, len(data), count):
        yield data[start : start + count]
        time.sleep(pause)


def _silence() -> Iterable[bytes]:
    time.sleep(30)
    yield b""


def _endless(piece: bytes, times: int = 200_000) -> Iterable[bytes]:
    for _ in range(times):
        yield piece


def _if_small(request: Request, pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Return these wrong bytes for a small blob, and none for a large one."""
    return pieces if request.size <= SMALL else []


def _zeros(request: Request) -> Iterable[bytes]:
    """Return zeros for a small blob, and nothing for a large one."""
    return [bytes(request.size)] if request.size <= SMALL else []


_CHUNKED = head(200, Content_Type=MANIFEST, Transfer_Encoding="chunked")

WRONG_ANSWERS: Mapping[str, Answer] = {
    "length too small": _altered(lambda _: [b"x"], Content_Length=1),
    "type of something else": _altered(_zeros, Content_Type="text/evil"),
    "a tag's digest that nobody has": _altered(_zeros, Docker_Content_Digest="sha256:" + "ab" * 32),
    "wrong bytes": _altered(_zeros),
    "no byte of the body": _altered(lambda _: _silence()),
    "40 kB a second": _altered(lambda request: _trickle(request.data, 4_000, 0.1)),
    "a length of 10^15": _altered(
        lambda request: _endless(bytes(65536)) if request.size > SMALL else [],
        Content_Length=10**15,
    ),
    "a length of 10^18, and an end": _altered(lambda _: [b"x" * 9], Content_Length=10**18),
    "no answer": lambda _: _silence(),
    "a head without an end": lambda _: [
        b"HTTP/1.1 200 OK\r\nX: ",
        *_endless(b"x" * 65536, 200),
    ],
    "a head byte by byte": lambda request: _trickle(honest_head(request), 1, 0.1),
    "a thousand interim answers": lambda _: _endless(
        b"HTTP/1.1 100 Continue\r\nX: " + b"a" * 900 + b"\r\n\r\n", 1000
    ),
    "chunks": lambda request: _body(
        request, _CHUNKED, _if_small(request, [b"fffffffffffffff\r\nabc"])
    ),
    "chunks without an end": lambda request: _body(
        request,
        _CHUNKED,
        _if_small(request, _endless(b"10000\r\n" + b"x" * 65536 + b"\r\n", 200)),
    ),
    "gzip": lambda request: [
        honest_head(request, Content_Encoding="gzip", Content_Length=100) + b"x" * 100
    ],
    "an age of 5,000 digits": lambda request: [honest_head(request, Age="9" * 5000)],
    "a redirect": lambda _: [head(302, Location="http://169.254.169.254/", Content_Length=0)],
    "another protocol": lambda _: [head(101, Upgrade="x", Connection="upgrade") + b"x" * 100],
    "status 999": lambda _: [head(999, Content_Length=0)],
    "a reason of a megabyte": lambda _: [b"HTTP/1.1 200 " + b"x" * 1_000_000 + b"\r\n\r\n"],
    "part of what was not asked for": lambda request: [
        head(
            206,
            Content_Type=MANIFEST,
            Content_Range=f"bytes 0-9/{request.size}",
            Content_Length=10,
        )
        + b"x" * 10
    ],
    "a source of 20 kB": lambda request: [honest_head(request, X_Spegel_Source="x" * 20_000)],
}
"""By name: every wrong answer that was tried against a node."""

WRONG_PROOFS: Mapping[str, Answer] = {
    "none": _altered(_zeros),
    "wrong": _altered(_zeros, X_Spegel_Proof="1;" + "A" * 22),
    "malformed": _altered(_zeros, X_Spegel_Proof="9;;\xff" + "x" * 900),
}
"""By name: answers of a peer that told a key for proofs, with a proof that is not right."""

HEALTH_ANSWERS: Mapping[str, bytes] = {
    "well": head(200, Content_Length=0),
    "an age of 5,000 digits": head(200, Content_Length=0, Age="9" * 5000),
    "a length of 19 digits": head(200, Content_Length="9" * 19),
    "chunks": head(200, Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
}
"""By name: answers to a health check."""


class RogueRegistry:
    """Answers at an address until it is closed.

    Attributes:
        answer: The answer to each request for content; None for 404.
        health_answer: The answer to each health check.
        genuine: The rogue's own content by digest, which it serves correctly.
        requests: The method and path of each request for content.
    """

    def __init__(self, address: str, port: int, content: Mapping[str, bytes]) -> None:
        self._listener = socket.create_server((address, port), backlog=128)
        self._content = content
        self.answer: Answer | None = None
        self.health_answer = HEALTH_ANSWERS["well"]
        self.genuine: dict[str, bytes] = {}
        self.requests: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError, IndexError), connection:
            received = b""
            while b"\r\n\r\n" not in received:
                if not (data := connection.recv(65536)):
                    return
                received += data
            method, path, _ = received.decode("latin-1").split(" ", 2)
            for piece in self._pieces(method, path):
                connection.sendall(piece)

    def _pieces(self, method: str, path: str) -> Iterable[bytes]:
        if path.startswith("/livez"):
            return [self.health_answer]
        data = self._content.get(path.partition("?")[0].rpartition("/")[2], b"")
        request = Request(method, path, len(data) or 500, data)
        self.requests.append(f"{method} {path}")
        if (made := self.genuine.get(request.reference)) is not None:
            return _body(request, honest_head(request, Content_Length=len(made)), [made])
        return [head(404, Content_Length=0)] if self.answer is None else self.answer(request)
