"""The form of a request that is served: its method, and no body."""

from __future__ import annotations

from aiohttp import web

from spegel_py.errors import RequestInvalid, Unsupported
from spegel_py.oci.distribution import METHODS


def check_method(request: web.Request) -> None:
    """Raise Unsupported for any other method than those of a pull."""
    if request.method not in METHODS:
        raise Unsupported(f"only {' and '.join(METHODS)} are served here")


def check_form(request: web.Request) -> None:
    """Raise Unsupported for another method, and RequestInvalid for a request with a body."""
    check_method(request)
    if request.body_exists:
        raise RequestInvalid(f"a {request.method} has no body here")
