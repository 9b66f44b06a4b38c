"""Which requests of browsers are answered on the metrics port. Pure, but for the middleware.

A browser lets any page post to any address, and says where the page came from: `Sec-Fetch-Site` where
the address is trusted (https, localhost), `Origin` everywhere (RFC 6454). Clients that are no browsers
send neither header, and are let in.

A page may also make its own name lead to this node (DNS rebinding). For the browser the node is then
that page's own site, and the page reads all that the node answers. The name is in `Host`, which no page
can change. So pages are answered only under an address, or a name that is known to be this node's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from spegel_py.errors import Denied

OPEN = ("/metrics",)
"""Paths that are answered under any name: Prometheus asks by names too, and reads numbers only."""


def guard_hosts(names: Collection[str]) -> Middleware:
    """Return a middleware that answers /metrics under any name, and all else under `names` and addresses."""
    known = frozenset(filter(None, map(_name, names))) | {"localhost"}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN:
            check_host(request.headers.get("Host", ""), known)
        return await handler(request)

    return middleware


def check_host(host: str, known: Collection[str]) -> None:
    """Raise Denied for a `Host` that is neither an address nor one of the names in lower case.

    Browsers always send one; a client without one is no browser.
    """
    name = _name(host)
    if host and name not in known and not _is_address(name):
        raise Denied(
            f"this page is not answered under the name {name[:100]!r}; --debug-hosts can allow it"
        )


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise Denied for a request that a browser made for another site than the one it goes to."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site not in (None, "same-origin", "none") or not (
        origin is None or _is_own(origin, headers.get("Host", ""))
    ):
        raise Denied("a page of another site sent this, and may not")


def _name(host: str) -> str:
    """Return the name or address in a `Host` header, in lower case and without brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str, host: str) -> bool:
    """Say whether an origin is the host that was asked; a proxy may have ended TLS, so the scheme says nothing."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no URL
        return False
