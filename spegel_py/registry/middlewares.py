"""The middlewares of every request: authentication, metrics, errors as OCI JSON."""

from __future__ import annotations

import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from spegel_py.errors import NotFound, OCIError, RequestInvalid, Unauthorized, Unsupported
from spegel_py.oci.distribution import Kind, is_base, origin_form
from spegel_py.oci.listing import ListKind, is_list
from spegel_py.registry import responses
from spegel_py.registry.connection import hang_up
from spegel_py.registry.metrics import ServerMetrics
from spegel_py.registry.proof_gate import PROVEN
from spegel_py.tools.basic_auth import Credentials

log = structlog.get_logger(__name__)


@web.middleware
async def close_gently(request: web.Request, handler: Handler) -> web.StreamResponse:
    """End a connection that is not reused with a FIN, above all after a short body."""
    response = await handler(request)
    if response.prepared and not response.keep_alive:
        await hang_up(request)
    return response


PROBES = ("/livez", "/readyz")


def authenticate(credentials: Credentials) -> Middleware:
    """Refuse requests without the credentials; probes and proven peers need none."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_known = request.path in PROBES or PROVEN in request
        if is_known or credentials.accept(request.headers.get("Authorization", "")):
            return await handler(request)
        return responses.error(Unauthorized("user name and password are needed, or wrong"))

    return middleware


def measure(metrics: ServerMetrics) -> Middleware:
    """Count and time every answer, and log it at DEBUG."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        name, began, status, size = handler_name(request.raw_path), time.monotonic(), 499, 0
        try:
            with metrics.inflight(name):
                response = await handler(request)
            status = response.status
            size = 0 if request.method == "HEAD" else (response.content_length or 0)
            return response
        finally:
            size = request.get(responses.SENT, size)  # smaller if the body ended short
            seconds = time.monotonic() - began
            metrics.answered(
                handler=name, method=request.method, code=status, seconds=seconds, size=size
            )
            log.debug(
                "request answered",
                method=request.method,
                target=request.raw_path,
                status=status,
                ms=round(seconds * 1000, 1),
            )

    return middleware


@web.middleware
async def oci_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Render every OCIError, and aiohttp's own errors, as the JSON of the specification."""
    try:
        return await handler(request)
    except OCIError as error:
        return responses.error(error)
    except web.HTTPNotFound:
        return responses.error(NotFound(f"no such endpoint: {request.raw_path[:160]!r}"))
    except web.HTTPMethodNotAllowed:
        return responses.error(Unsupported(f"{request.method[:16]!r} is not served here"))
    except web.HTTPClientError as error:
        return responses.error(RequestInvalid(error.reason), status=error.status)


def handler_name(target: str) -> str:
    """Return the label `handler` of a target: one of eight."""
    path = origin_form(target).partition("?")[0]
    if path in PROBES:
        return path.removeprefix("/")
    if is_base(path):
        return "v2"
    if is_list(path):
        return ListKind.TAGS.value if path.endswith("/tags/list") else ListKind.REFERRERS.value
    kind = path.rsplit("/", 2)[-2] if path.startswith("/v2/") else ""
    return kind if kind in (Kind.MANIFEST.value, Kind.BLOB.value) else "other"
