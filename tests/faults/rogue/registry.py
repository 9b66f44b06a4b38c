"""A rogue registry: an HTTP server in threads that answers for content in one of many wrong ways at a time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SMALL = 4 * 1024 * 1024
"""Bytes up to which a node verifies a blob before it passes on the first byte; a rogue's wrong bytes stay below."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its method and path, and the content it is for, as far as the rogue has it."""

    method: str
    path: str
    size: int
    data: bytes = field(default=b"", repr=False)

    @property
    def is_manifest(self) -> bool:
        return "/manifests/" in self.path

    @property
    def reference(self) -> str:
        """The digest or the tag that is asked for."""
        return self.path.partition("?")[0].rpartition("/")[2]


Way = Callable[[Asked], Iterable[bytes]]
"""Yields the bytes of an answer, head and all."""


def head(status: int | str = 200, **fields: object) -> bytes:
    """Return the head of an answer; underscores in names become hyphens."""
    lines = [
        f"HTTP/1.1 {status} X",
        *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def described(asked: Asked, **fields: object) -> bytes:
    """Return the head that an honest node gives, with some fields changed."""
    kind = MANIFEST if asked.is_manifest else "application/octet-stream"
    honest = {
        "Content_Type": kind,
        "Content_Length": asked.size,
        "Docker_Content_Digest": asked.reference,
    }
    return head(200, **(honest | fields))


def _body(asked: Asked, head: bytes, pieces: Iterable[bytes]) -> Iterable[bytes]:
    yield head
    if asked.method != "HEAD":
        yield from pieces


def _drip(data: bytes, count: int, pause: float) -> Iterable[bytes]:
    for start in range(0, len(data), count):
        yield data[start : start + count]
        time.sleep(pause)


def _silence() -> Iterable[bytes]:
    time.sleep(30)
    yield b""


def _endless(piece: bytes, times: int = 200_000) -> Iterable[bytes]:
    for _ in range(times):
        yield piece


def _if_small(asked: Asked, pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Return wrong bytes where they are verified before they are passed on, and none of a large blob."""
    return pieces if asked.size <= SMALL else []


def _wrong(asked: Asked) -> Iterable[bytes]:
    """Yield wrong bytes of what is verified before it is passed on; of a large blob only the first of them."""
    if asked.size <= SMALL:
        return [b"\0" * asked.size]
    return [b""]


_CHUNKED = head(200, Content_Type=MANIFEST, Transfer_Encoding="chunked")

WAYS: Mapping[str, Way] = {
    "length too small": lambda asked: _body(asked, described(asked, Content_Length=1), [b"x"]),
    "type of something else": lambda asked: _body(asked, described(asked, Content_Type="text/evil"), _wrong(asked)),
    "a tag's digest that nobody has": lambda asked: _body(
        asked, described(asked, Docker_Content_Digest="sha256:" + "ab" * 32), _wrong(asked)
    ),
    "wrong bytes": lambda asked: _body(asked, described(asked), _wrong(asked)),
    "no byte of the body": lambda asked: _body(asked, described(asked), _silence()),
    "40 kB a second": lambda asked: _body(asked, described(asked), _drip(asked.data, 4_000, 0.1)),
    "a length of 10^15": lambda asked: _body(
        asked, described(asked, Content_Length=10**15), _endless(b"\0" * 65536) if asked.size > SMALL else [b""]
    ),
    "a length of 10^18, and an end": lambda asked: _body(asked, described(asked, Content_Length=10**18), [b"x" * 9]),
    "no answer": lambda asked: _silence(),
    "a head without an end": lambda asked: [b"HTTP/1.1 200 OK\r\nX: ", *_endless(b"x" * 65536, 200)],
    "a head byte by byte": lambda asked: _drip(described(asked), 1, 0.1),
    "a thousand interim answers": lambda asked: _endless(
        b"HTTP/1.1 100 Continue\r\nX: " + b"a" * 900 + b"\r\n\r\n", 1000
    ),
    "chunks": lambda asked: _body(asked, _CHUNKED, _if_small(asked, [b"fffffffffffffff\r\nabc"])),
    "chunks without an end": lambda asked: _body(
        asked, _CHUNKED, _if_small(asked, _endless(b"10000\r\n" + b"x" * 65536 + b"\r\n", 200))
    ),
    "gzip": lambda asked: [described(asked, Content_Encoding="gzip", Content_Length=100) + b"x" * 100],
    "an age of 5,000 digits": lambda asked: [described(asked, Age="9" * 5000)],
    "a redirect": lambda asked: [head(302, Location="http://169.254.169.254/", Content_Length=0)],
    "another protocol": lambda asked: [head(101, Upgrade="x", Connection="upgrade") + b"x" * 100],
    "status 999": lambda asked: [head(999, Content_Length=0)],
    "a reason of a megabyte": lambda asked: [b"HTTP/1.1 200 " + b"x" * 1_000_000 + b"\r\n\r\n"],
    "part of what was not asked for": lambda asked: [
        head(206, Content_Type=MANIFEST, Content_Range=f"bytes 0-9/{asked.size}", Content_Length=10) + b"x" * 10
    ],
    "a source of 20 kB": lambda asked: [described(asked, X_Spegel_Source="x" * 20_000)],
}  # fmt: skip
"""Every way that was tried against a node, by what it is."""

CHECKS: Mapping[str, bytes] = {
    "well": head(200, Content_Length=0),
    "an age of 5,000 digits": head(200, Content_Length=0, Age="9" * 5000),
    "a length of 19 digits": head(200, Content_Length="9" * 19),
    "chunks": head(200, Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
}
"""Answers to a health check, by what they are."""


class RogueRegistry:
    """Answers at an address until it is closed: health checks by `check`, everything else by `way`.

    `content` is what it says it has, by digest; what it is asked for is in `asked`. Content in `own` is answered
    rightly, for what the rogue makes itself.
    """

    def __init__(self, address: str, port: int, content: Mapping[str, bytes]) -> None:
        self._listener = socket.create_server((address, port), backlog=128)
        self._content = content
        self.way: Way | None = None
        self.check = CHECKS["well"]
        self.own: dict[str, bytes] = {}
        self.asked: list[str] = []
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
            for piece in self._answer(method, path):
                connection.sendall(piece)

    def _answer(self, method: str, path: str) -> Iterable[bytes]:
        if path.startswith("/livez"):
            return [self.check]
        data = self._content.get(path.partition("?")[0].rpartition("/")[2], b"")
        asked = Asked(method, path, len(data) or 500, data)
        self.asked.append(f"{method} {path}")
        if (made := self.own.get(asked.reference)) is not None:
            return [
                described(asked, Content_Length=len(made)),
                *([] if method == "HEAD" else [made]),
            ]
        return [head(404, Content_Length=0)] if self.way is None else self.way(asked)
