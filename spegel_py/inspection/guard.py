"""Who may have a node do something: nobody whom a page of another site sends. Pure.

A browser lets any page post to any address, and says where it comes from: `Sec-Fetch-Site` where the address is
trusted (https, localhost), `Origin` everywhere (RFC 6454). What is no browser sends neither, and is let in.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from spegel_py.errors import Denied


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise Denied for a request that a browser made for another site than the one it goes to."""
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site not in (None, "same-origin", "none") or not (origin is None or _is_own(origin, headers.get("Host", ""))):
        raise Denied("a page of another site sent this, and may not")


def _is_own(origin: str, host: str) -> bool:
    """Say whether an origin is the host that was asked; a proxy may have ended TLS, so the scheme says nothing."""
    try:
        return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no URL
        return False
