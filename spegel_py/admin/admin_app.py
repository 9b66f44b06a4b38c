"""The application on the metrics port: `/metrics`, and everything below `/debug/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web
from aiohttp.typedefs import Middleware

from spegel_py.registry.app import add_headers
from spegel_py.registry.middlewares import oci_errors

State = Mapping[str, object]
"""The state of a node, as JSON."""


def create_admin_app(
    *,
    render: Callable[[str], tuple[bytes, str]],
    state: Callable[[], Awaitable[State]],
    routes: Iterable[web.RouteDef] = (),
    guard: Iterable[Middleware] = (),
) -> web.Application:
    """Return the application of the metrics port.

    Args:
        render: returns the metrics, and their content type, for an Accept header.
        state: returns the state of the node.
        routes: further routes.
        guard: middlewares that every request passes first; they may refuse it with an OCIError.
    """

    async def show(request: web.Request) -> web.Response:
        body, content_type = render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def show_state(request: web.Request) -> web.Response:
        return web.json_response(await state())

    app = web.Application(middlewares=[oci_errors, *guard])
    app.router.add_get("/metrics", show)
    app.router.add_get("/debug/state", show_state)
    app.router.add_routes(routes)
    app.on_response_prepare.append(add_headers)
    return app
