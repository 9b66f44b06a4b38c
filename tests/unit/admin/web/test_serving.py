"""The page over a real socket: what is streamed to whom, who may have the node do something, and
how it ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import aiohttp
import pytest
from structlog.testing import capture_logs

from spegel_py.admin.admin_app import create_admin_app
from spegel_py.admin.web.page import PARTS
from spegel_py.admin.web.status_page import StatusPage
from spegel_py.admin.web.viewers import LIMIT, Viewers
from spegel_py.health.peer_health import HealthState
from spegel_py.registry.server import serve
from tests.browser.stage import Stage
from tests.support.routers import until

Event = dict[str, str]


class Served:
    """A page at its address."""

    def __init__(
        self, stage: Stage, page: StatusPage, session: aiohttp.ClientSession, port: int
    ) -> None:
        self.stage = stage
        self.page = page
        self.session = session
        self.port = port
        self.url = f"http://127.0.0.1:{port}/debug/web/"

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """Look at it, as a browser does."""
        async with self.session.get(self.url + "events") as response:
            assert response.status == 200
            yield response

    async def post(self, image: str, **headers: str) -> aiohttp.ClientResponse:
        return await self.session.post(
            self.url + "measure", data={"image": image}, headers=headers, allow_redirects=False
        )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


@asynccontextmanager
async def serving(stage: Stage) -> AsyncIterator[Served]:
    app, page = create_admin_app(render=stage.metrics.render, state=stage.state), stage.page()
    page.install(app)
    async with (
        stage.measurer.running(),
        serve(app, "127.0.0.1:0") as port,
        aiohttp.ClientSession() as session,
    ):
        yield Served(stage, page, session, port)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(Stage(images=3)) as served:
        yield served


async def events(response: aiohttp.ClientResponse, count: int) -> list[Event]:
    """Return the next parts that come."""
    found: list[Event] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = await response.content.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
    return found


async def test_who_looks_gets_all_parts_first_and_then_what_has_changed(served: Served) -> None:
    """A peer whose health turns is one part (and one figure), not the page."""
    served.stage.health = dict.fromkeys(served.stage.health, HealthState.HEALTHY)
    async with served.follow() as response:
        assert response.content_type == "text/event-stream"
        first = {event["name"] for event in await events(response, len(PARTS))}
        assert first == set(PARTS)
        served.stage.health[served.stage.peers[0].id] = HealthState.UNHEALTHY
        news = await events(response, 2)
    assert {event["name"] for event in news} == {"figures", "peers"}
    assert "unhealthy" in next(event["html"] for event in news if event["name"] == "peers")


async def test_nothing_runs_before_somebody_looks_and_after_the_last_has_left(
    served: Served,
) -> None:
    """No task is there but the server's own, and what was made for the viewers is forgotten."""
    idle = len(asyncio.all_tasks())
    async with served.follow() as one, served.follow() as other:
        await events(one, len(PARTS))
        await events(other, len(PARTS))
        assert served.page.viewers.count == 2
        assert served.page._page._parts
    await until(lambda: served.page.viewers.count == 0)
    assert not served.page._page._parts
    assert not served.page._page._rows
    await until(lambda: len(asyncio.all_tasks()) <= idle)


async def test_too_many_viewers_are_told_so(served: Served) -> None:
    """The page itself is served still."""
    async with AsyncExitStack() as stack:
        for _ in range(LIMIT):
            await stack.enter_async_context(served.follow())
        async with served.session.get(served.url + "events") as response:
            assert response.status == 503
        async with served.session.get(served.url) as response:
            assert response.status == 200


async def test_streams_end_at_once_with_the_node() -> None:
    """Though the server would wait for what is under way for seconds; also that of a viewer that
    reads nothing.
    """
    async with serving(Stage(images=3)) as served:
        async with served.follow() as response:
            await events(response, len(PARTS))
            lazy = _lazy(served.port)
            with closing(lazy):
                await until(lambda: served.page.viewers.count == 2)
                began = time.monotonic()
                await served.page.viewers.close()
                await until(lambda: served.page.viewers.count == 0)
                assert time.monotonic() - began < 1
                assert await response.content.read() is not None
        async with served.session.get(served.url + "events") as response:
            assert response.status == 503


async def test_a_viewer_that_reads_nothing_is_dropped(served: Served) -> None:
    """It holds what fits into its connection and no more, until patience ends."""
    stage = served.stage
    viewers = Viewers(page=served.page._page, period=0.01, patience=0.2)
    served.page.viewers = viewers
    lazy = _lazy(served.port)
    with closing(lazy):
        await until(lambda: viewers.count == 1)

        async def fill() -> bool:
            stage.measurer.latest = None
            served.page._page._parts = {"measure": "x" * 500_000 + str(time.monotonic())}
            served.page._page._made = time.monotonic()
            return viewers.count == 0

        await until(fill)


async def test_silence_is_broken_by_a_heartbeat(served: Served) -> None:
    """A comment, so that a proxy keeps the connection."""
    served.stage.peers.clear()
    served.page.viewers = Viewers(page=served.page._page, period=0.01, heartbeat=0.05)
    async with served.follow() as response, asyncio.timeout(10):
        while await response.content.readline() != b":\n":
            pass


@pytest.mark.parametrize(
    "path", ["", "events", "decisions?key=app", "images?page=1", "page.css", "page.js", "icon.svg"]
)
async def test_every_answer_forbids_what_is_from_elsewhere(served: Served, path: str) -> None:
    """A policy without inline scripts, and no guessing of types."""
    async with served.session.get(served.url + path) as response:
        assert response.status == 200
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_is_found_without_its_slash(served: Served) -> None:
    """By a relative redirect, since a proxy may have it elsewhere."""
    async with served.session.get(served.url.removesuffix("/"), allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (308, "web/")


@pytest.mark.parametrize(
    ("kind", "body", "encoding"),
    [
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="\0"\r\n\r\n1\r\n--b--',
            "",
        ),
        ("text/plain", b"image=a", ""),
        ("application/x-www-form-urlencoded", b"a=b&" * 1000, ""),
        ("application/x-www-form-urlencoded; charset=none", b"image=\xff", "gzip"),
    ],
    ids=["parts", "text", "fields", "encoded"],
)
async def test_what_is_no_form_is_refused(
    served: Served, kind: str, body: bytes, encoding: str
) -> None:
    """With a 400, and without a fault of this node in the log."""
    headers = {"Content-Type": kind} | ({"Content-Encoding": encoding} if encoding else {})
    with capture_logs() as logs:
        async with served.session.post(
            served.url + "measure", data=body, headers=headers
        ) as response:
            assert response.status == 400
    assert not [each for each in logs if each["log_level"] == "error"]


@pytest.mark.parametrize(
    "path", ["nothing", "../page.css", "images?page=0", "images?page=x", "templates/page.html"]
)
async def test_what_is_not_there_is_said(served: Served, path: str) -> None:
    """As everywhere on this port, as JSON."""
    async with served.session.get(served.url + path) as response:
        assert response.status in (400, 404)
        assert (await response.json())["errors"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=["cross-site", "same-site", "origin", "opaque"],
)
async def test_a_page_of_another_site_measures_nothing(
    served: Served, headers: dict[str, str]
) -> None:
    """Whatever else it sends."""
    async with await served.post("registry.example/app:1", **headers) as response:
        assert response.status == 403
    assert served.stage.measurer.latest is None


async def test_the_pages_own_form_measures(served: Served) -> None:
    """It leads back to the page, where the measurement is shown; the mirror here does not answer,
    which is told.
    """
    own = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://127.0.0.1:{served.port}"}
    async with await served.post("registry.example/app:1", **own) as response:
        assert (response.status, response.headers["Location"]) == (303, "./#measure")
    await until(lambda: bool(served.stage.measurer.latest and served.stage.measurer.latest.is_over))
    served.page._page.forget()
    async with served.session.get(served.url) as response:
        assert "registry.example/app:1" in await response.text()


@pytest.mark.parametrize(
    "image", ["", "app:1", "registry.example/App:1", "registry.example/app@sha256:12", "x" * 9000]
)
async def test_a_wrong_reference_is_explained_where_it_was_written(
    served: Served, image: str
) -> None:
    """The page comes again with what was written and what is wrong with it, and nothing is
    measured.
    """
    async with await served.post(image) as response:
        text = await response.text()
        assert response.status == 400
    assert 'id="measure-error"' in text
    assert 'aria-invalid="true"' in text
    assert served.stage.measurer.latest is None


def _lazy(port: int) -> socket.socket:
    """Ask for the stream, and read nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET /debug/web/events HTTP/1.1\r\nHost: node\r\n\r\n")
    return client
