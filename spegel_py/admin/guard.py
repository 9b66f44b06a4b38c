"""Decides which requests of browsers the metrics port answers. Pure, but for the middleware.

A browser lets any page post to any address, and names the origin of the page: in `Sec-Fetch-Site`
for trusted addresses (https, localhost), in `Origin` everywhere (RFC 6454). Clients that are not
browsers send neither header, and are allowed.

A page may also make its own name resolve to this node (DNS rebinding). The browser then takes the
node for the page's own site, and the page can read every answer. The name is in `Host`, which no
page can change. So pages are answered only under an address, or a name that belongs to this node.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from spegel_py.errors import Denied

OPEN = ("/metrics",)
"""Paths that are answered under any name: Prometheus uses names too, and reads numbers only."""


def guard_hosts(names: Collection[str]) -> Middleware:
    """Return a middleware that refuses other names than `names` and addresses, but for /metrics."""
    known = frozenset(filter(None, map(_name, names))) | {"localhost"}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN:
            check_host(request.headers.get("Host", ""), known)
        return await handler(request)

    return middleware


def check_host(host: str, known: Collection[str]) -> None:
    """Raise Denied for a `Host` that is neither an address nor in `known`, in lower case.

    Browsers always send `Host`, so a client without it is allowed.
    """
    name = _name(host)
    if host and name not in known and not _is_address(name):
        raise Denied(
            f"this page is not answered under the name {name[:100]!r}; --debug-hosts can allow it"
        )


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise Denied for a request that a browser sent for a page of another site."""
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
    """Return True if the origin is the requested host.

    The scheme is ignored, since a proxy may have ended TLS.
    """
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no URL
        return False
