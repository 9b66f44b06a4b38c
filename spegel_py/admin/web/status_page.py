"""The routes of the status page, and the headers that restrict a browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from aiohttp import web

from spegel_py.admin.guard import check_origin
from spegel_py.admin.web.page_sources import PageSources
from spegel_py.errors import DigestInvalid, NameInvalid, NotFound, Occupied, RequestInvalid
from spegel_py.tools.query import whole_number

if TYPE_CHECKING:
    from spegel_py.admin.web.page import Page
    from spegel_py.admin.web.viewers import Viewers

ROOT = "/debug/web"

LONGEST = 512
"""Characters of a reference, or of a search."""

MOST_FIELDS = 16
"""Fields of a form at most; the form of the page has one."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, a browser would send a form with the origin null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing from other sites, nothing inline, no frames: names of images and peers are untrusted."""


class StatusPage:
    """The page of one node, loaded with its templates at the first request.

    `now` is Unix time in seconds.
    """

    def __init__(self, *, sources: PageSources, now: Callable[[], float] = time.time) -> None:
        self._sources = sources
        self._measurer = sources.measurer
        self._now = now

    def __repr__(self) -> str:
        return f"<StatusPage {vars(self).get('viewers', 'not loaded')!r}>"

    @cached_property
    def _page(self) -> Page:
        from spegel_py.admin.web.page import Page

        return Page(sources=self._sources, now=self._now)

    @cached_property
    def viewers(self) -> Viewers:
        """The people who look at the page now."""
        from spegel_py.admin.web.viewers import Viewers

        return Viewers(page=self._page)

    def install(self, app: web.Application) -> None:
        """Add the page to the application of the metrics port, whose shutdown closes the page."""
        app.router.add_routes(
            [
                web.get(ROOT, self._move),
                web.get(f"{ROOT}/", self._show, allow_head=False),
                web.get(f"{ROOT}/decisions", self._show_decisions),
                web.get(f"{ROOT}/images", self._show_images),
                web.get(f"{ROOT}/events", self._stream, allow_head=False),
                web.post(f"{ROOT}/measure", self._measure),
                web.get(f"{ROOT}/measure", self._move_back),
                web.get(f"{ROOT}/{{name}}", self._send_static),
            ]
        )
        app.on_shutdown.append(self._close)

    async def _close(self, app: web.Application) -> None:
        if "viewers" in vars(self):
            await self.viewers.close(app)

    async def _move(self, request: web.Request) -> web.Response:
        # The path is relative, since a proxy may use another path for the page.
        raise web.HTTPPermanentRedirect("web/")

    async def _move_back(self, request: web.Request) -> web.Response:
        """Show the page after a reload of the result of a form."""
        raise web.HTTPSeeOther("./#measure")

    async def _show(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/html; charset=utf-8"}
        )
        await response.prepare(request)
        async for piece in self._page.pieces():
            await response.write(piece.encode())
        return response

    async def _show_decisions(self, request: web.Request) -> web.Response:
        return _html(await self._page.decisions(_text(request, "key")))

    async def _show_images(self, request: web.Request) -> web.Response:
        number = whole_number(request.query.get("page"), "page", default=1, low=1, high=10**6)
        return _html(await self._page.images(_text(request, "part"), number))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self.viewers.follow(request, HEADERS)

    async def _measure(self, request: web.Request) -> web.Response:
        check_origin(request.headers)
        reference = _field(await _form(request), "image")[:LONGEST]
        try:
            self._measurer.start(reference)
        except (NameInvalid, DigestInvalid, Occupied) as error:
            return _html(
                await self._page.whole(reference=reference, error=error.message),
                status=error.status,
            )
        raise web.HTTPSeeOther("./#measure")

    async def _send_static(self, request: web.Request) -> web.Response:
        from spegel_py.admin.web.rendering import STATIC, static

        name = request.match_info["name"]
        if name not in STATIC:
            raise NotFound(f"no such endpoint: {request.path[:160]!r}")
        kept = (
            {"Cache-Control": "public, max-age=31536000, immutable"} if "v" in request.query else {}
        )
        return web.Response(
            body=static(name),
            content_type=STATIC[name],
            charset="utf-8",
            headers={**HEADERS, **kept},
        )


async def _form(request: web.Request) -> str:
    """Return the body of a form of the page. Raises RequestInvalid for other forms."""
    # aiohttp's `content_type` takes the header apart as e-mail, which nested brackets make too deep
    given = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if given != "application/x-www-form-urlencoded":
        raise RequestInvalid(f"not a form of the page: {given[:80]!r}")
    try:
        return (await request.read()).decode(errors="replace")
    except web.RequestPayloadError as error:
        raise RequestInvalid("the form is not as its head says") from error


def _field(form: str, name: str) -> str:
    """Return a field of a form, empty if it is missing. Raises RequestInvalid."""
    try:
        return parse_qs(form, max_num_fields=MOST_FIELDS).get(name, [""])[0]
    except ValueError as error:
        raise RequestInvalid(f"not a form: {error}"[:200]) from error


def _text(request: web.Request, name: str) -> str:
    return request.query.get(name, "").strip()[:LONGEST]


def _html(text: str, *, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html", headers=HEADERS)
