"""HTTP as it comes in: requests to the registry and to the metrics port, and what a peer answers to
a mirror.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from random import Random
from typing import Any, cast

from hypothesis import strategies as st

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.routes import image_routes
from spegel_py.metrics import NodeMetrics
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.scores import Scores
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_MANIFEST
from spegel_py.registry.app import create_app
from spegel_py.registry.server import serve
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork
from spegel_py.store.memory_store import MemoryStore
from spegel_py.telemetry.pull_log import PullLog
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.sender import Sender
from tests.browser.stage import Stage
from tests.fuzz import served
from tests.fuzz.served import Served, counting
from tests.fuzz.target import Check, Target
from tests.fuzz.targets.peers import heads

BLOB = b"0123456789"
MANIFEST = (
    b'{"schemaVersion":2,"config":{"mediaType":"a","digest":"sha256:%s","size":10},"layers":[]}'
    % (b"a" * 64)
)
HERE, THERE = Digest.of(BLOB), Digest.of(MANIFEST)
NOWHERE = Digest.of(b"")
TAG = "registry.example/team/app:1"
QUICK = Deadlines(connect=0.5, first_byte=0.3, stall=0.3, resolve=0.05, manifest=1.0, blob=1.0)


def _alive() -> dict[str, object]:
    return {"live": True, "reasons": []}


@asynccontextmanager
async def _registry(
    network: MemoryNetwork, name: str, *, holds: bytes
) -> AsyncIterator[tuple[int, list[object]]]:
    """Serve a registry of that network; give its port, and the requests that are being answered."""
    store, metrics, under_way = MemoryStore(), NodeMetrics(), list[object]()
    store.add(holds, *([TAG] if holds == MANIFEST else []))
    with Sender(threads=2) as sender:
        async with HTTPUpstream(deadlines=QUICK) as upstream:
            mirror = _Mirrors(network.join(Peer(name, "127.0.0.1", 1)), upstream, metrics.mirror)
            app = create_app(
                store=store,
                sender=sender,
                mirror=cast("Mirror", mirror),
                metrics=metrics.server,
                pull_log=PullLog(metrics=metrics.pulls),
                ready=_alive,
            )
            app.middlewares.insert(0, counting(under_way))
            async with serve(app, "127.0.0.1:0", drain=0.2) as port:
                await network.join(Peer(name, "127.0.0.1", port)).advertise(store.keys)
                yield port, under_way


class _Mirrors:
    """Mirrors, a new one for each pull: what one has learnt of a peer would keep the next input
    from it.
    """

    def __init__(self, router: Any, upstream: HTTPUpstream, metrics: MirrorMetrics) -> None:
        self._router = router
        self._upstream = upstream
        self._metrics = metrics

    def fetch(self, *args: Any, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Fetch with a new mirror."""
        mirror = Mirror(
            router=self._router,
            upstream=self._upstream,
            metrics=self._metrics,
            deadlines=QUICK,
            scores=Scores(),
            random=Random(1),
        )
        return mirror.fetch(*args, **options)


PING = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@contextmanager
def _requests() -> Iterator[Check]:
    """Serve a registry that holds a blob beside another one that holds a manifest and a tag."""
    network = MemoryNetwork()
    with (
        served.logged() as logs,
        served.loop() as loop,
        loop.running(_registry(network, "there", holds=MANIFEST)),
        loop.running(_registry(network, "here", holds=BLOB)) as (port, under_way),
    ):
        yield Served(port, loop, logs, PING, under_way).send


@contextmanager
def _metrics() -> Iterator[Check]:
    """Serve all that is on a metrics port."""
    stage, under_way = Stage(images=20), list[object]()
    app = create_admin_app(
        render=stage.metrics.render,
        state=stage.state,
        routes=image_routes(images=stage.images, measurer=stage.measurer),
    )
    app.middlewares.insert(0, counting(under_way))
    stage.page().install(app)

    @asynccontextmanager
    async def serving() -> AsyncIterator[int]:
        async with stage.measurer.running(), serve(app, "127.0.0.1:0", drain=0.2) as port:
            yield port

    with served.logged() as logs, served.loop() as loop, loop.running(serving()) as port:
        yield Served(port, loop, logs, PING, under_way).send


class _Rogue:
    """A peer that answers everything with the same bytes, and then hangs up."""

    def __init__(self) -> None:
        self.answer = b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self, network: MemoryNetwork) -> AsyncIterator[None]:
        """Listen, and advertise what nobody else has."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            router = network.join(Peer("rogue", "127.0.0.1", port))
            await router.advertise([str(HERE), str(THERE), TAG])
            yield


_ASKED = (
    (f"GET /v2/a/manifests/{THERE}", "", THERE),
    (f"GET /v2/a/blobs/{HERE}", "", HERE),
    (f"GET /v2/a/blobs/{HERE}", "Range: bytes=4-\r\n", None),
    ("GET /v2/team/app/manifests/1?ns=registry.example", "", THERE),
    ("HEAD /v2/team/app/manifests/1?ns=registry.example", "", None),
)


@contextmanager
def _answers() -> Iterator[Check]:
    """Serve a registry that holds nothing beside a rogue peer that claims to have it all."""
    network, rogue = MemoryNetwork(), _Rogue()
    with (
        served.logged() as logs,
        served.loop() as loop,
        loop.running(rogue.running(network)),
        loop.running(_registry(network, "here", holds=b"nothing")) as (port, under_way),
    ):
        node = Served(port, loop, logs, PING, under_way)

        def check(data: bytes) -> None:
            rogue.answer = data
            for line, header, digest in _ASKED:
                answer = node.ask(
                    f"{line} HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n".encode()
                )
                head, _, body = answer.partition(b"\r\n\r\n")
                status = int(head.split(b" ")[1])
                assert status in (200, 206, 404, 416), head[:200]
                is_whole = status == 200 and b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
                assert not is_whole or digest is None or digest.matches(body) or _is_tag(line), (
                    head[:200]
                )
            node.check()

        yield check


def _is_tag(line: str) -> bool:
    """Return True for what is asked for by a tag, of which a peer may say what it likes."""
    return "ns=" in line


def _get(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode() + body


_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nregistry.example/app:1\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n1\r\n--b--\r\n'
)


def _posted(kind: str, body: bytes, *fields: str) -> bytes:
    lines = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    return _get("/debug/web/measure", *lines, method="POST", body=body)


_FIELDS = st.lists(
    st.one_of(
        st.sampled_from(
            (
                "Host: x",
                "Host: y:1",
                "Connection: close",
                "Connection: keep-alive, Upgrade",
                "Content-Length: 5",
                "Content-Length: +5",
                "Content-Length: " + "9" * 5000,
                "Transfer-Encoding: chunked",
                "Transfer-Encoding : chunked",
                "Transfer-Encoding: xchunked",
                "Expect: 100-continue",
                "Upgrade: h2c",
                "Upgrade: websocket",
                " folded",
                "X: a\rb",
                "X: a\0b",
                "X: " + "a" * 9000,
                "Cookie: a=b; c",
                "Authorization: Basic =",
                "Accept: caf\xe9",
                "Accept: application/x-ndjson",
                "Accept: application/openmetrics-text; version=1.0.0; q=x",
                "Accept-Encoding: gzip, deflate, br",
                "Content-Type: multipart/form-data",
                "Content-Type: multipart/form-data; boundary=b",
                "Content-Type: text/plain; charset=x",
                "Content-Encoding: gzip",
                "Origin: http://[",
                "Origin: null",
                "Sec-Fetch-Site: cross-site",
                "If-Range: x",
                "If-Modified-Since: x",
                "If-None-Match: x",
                "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01",
                "X-Spegel-Mirrored: true",
                "X-Spegel-In-Flight: true",
                "X-Spegel-Node: \x7f",
                "OCI-Namespace: registry.example",
                "Range: bytes=0-0,2-3",
                "Range: bytes=-" + "9" * 5000,
                "Range: bytes=9" + "9" * 19 + "-",
            )
        ),
        st.text(max_size=20).map("X: {}".format),
    ),
    max_size=6,
)


def _requested(paths: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Return requests: a line, header fields, a body, some of them twice."""

    def request(
        method: str, path: str, version: str, fields: list[str], ends: str, body: bytes, times: int
    ) -> bytes:
        head = ends.join([f"{method} {path}{version}", *fields, "", ""])
        return (head.encode("utf-8", "replace") + body) * times

    return st.builds(
        request,
        st.sampled_from(("GET", "HEAD", "POST", "OPTIONS", "CONNECT", "PRI", "g\xe9t", "")),
        st.one_of(st.sampled_from(paths), st.text(max_size=10).map("/{}".format)),
        st.sampled_from(
            (" HTTP/1.1", " HTTP/1.1", " HTTP/1.0", " HTTP/2.0", " HTTP/0.9", "", " HTTP/1.1 x")
        ),
        _FIELDS,
        st.sampled_from(("\r\n", "\r\n", "\r\n", "\n", "\r")),
        st.one_of(
            st.binary(max_size=10),
            st.sampled_from((b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"image=a", _FORM)),
        ),
        st.sampled_from((1, 1, 1, 2, 50)),
    )


_PULLED = (
    f"/v2/a/blobs/{HERE}",
    f"/v2/a/manifests/{THERE}",
    f"/v2/a/blobs/{NOWHERE}",
    "/v2/team/app/manifests/1?ns=registry.example",
    "/v2/team/app/manifests/1?ns=a&ns=b",
    "/v2/team/app/manifests/1?ns=%0d%0aX:y",
    "/v2/../../etc/passwd/blobs/1",
    "/v2/%2e%2e/x/blobs/1",
    f"http://evil/v2/a/blobs/{HERE}",
    f"http://evil#/v2/a/blobs/{HERE}",
    "ftp://evil/v2/",
    "169.254.169.254:80",
    "*",
    "/v2/",
    "/livez",
    "/readyz?x",
    "/v2/" + "a/" * 3000,
)
_SHOWN = (
    "/metrics",
    "/debug/state",
    "/debug/images?part=a&offset=0&limit=5",
    "/debug/images?limit=" + "9" * 5000,
    "/debug/images?part=%ff%00",
    "/debug/web",
    "/debug/web/",
    "/debug/web/decisions?key=%3Cscript%3E",
    "/debug/web/images?page=" + "9" * 5000,
    "/debug/web/images?part=%ed%a0%80&page=2",
    "/debug/web/events",
    "/debug/web/measure",
    "/debug/measure?image=a",
    "/debug/measure?image=%00",
    "/debug/web/page.css?v",
    "/debug/web/..%2f..%2fetc%2fpasswd",
    "/debug/web/page.css%00",
)
_GOOD_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BLOB), BLOB),
    b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nAge: 3\r\n\r\n%s"
    % (OCI_MANIFEST.encode(), len(MANIFEST), MANIFEST),
    b"HTTP/1.1 206 P\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(MANIFEST), MANIFEST),
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
)

TARGETS = (
    Target(
        name="registry-requests",
        examples=(
            *(_get(path, "Accept: a/b") for path in _PULLED[:4]),
            _get(_PULLED[0], "Range: bytes=1-2,5-"),
        ),
        open=_requests,
        structured=_requested(_PULLED),
    ),
    Target(
        name="metrics-requests",
        examples=(
            *(_get(path) for path in _SHOWN[:3]),
            _get(_SHOWN[8]),
            _posted("application/x-www-form-urlencoded", b"image=registry.example%2Fapp:1"),
            _posted("multipart/form-data; boundary=b", _FORM, "Origin: http://x"),
            _posted("application/x-www-form-urlencoded", b"image=a", "Origin: http://y"),
        ),
        open=_metrics,
        structured=_requested(_SHOWN),
    ),
    Target(
        name="peer-answers",
        examples=_GOOD_ANSWERS,
        open=_answers,
        structured=heads(
            st.sampled_from((BLOB, MANIFEST, BLOB[::-1], b"", b"a\r\n0123456789\r\n0\r\n\r\n"))
        ),
    ),
)
