"""Renders templates to HTML.

Jinja is imported with the first request for the page: it costs memory, and few nodes are viewed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from spegel_py.tools.human import plural, short_digest, size, span

if TYPE_CHECKING:
    from jinja2 import Environment

_FILES = files("spegel_py.admin.web")

STATIC: Mapping[str, str] = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The static files, with their types."""


def load(*names: str) -> None:
    """Load Jinja and these templates, or all templates.

    This takes a tenth of a second, so it runs in a thread.
    """
    environment = _environment()
    for name in names or environment.list_templates():
        environment.get_template(name)


def render(template: str, **values: object) -> str:
    """Return the rendered template; values are escaped."""
    return _environment().get_template(template).render(values)


@cache
def static(name: str) -> bytes:
    """Return the content of a file of STATIC."""
    return _FILES.joinpath("static", name).read_bytes()


@cache
def version(name: str) -> str:
    """Return a suffix for a file's address, so that browsers cache the file until it changes."""
    return hashlib.sha256(static(name)).hexdigest()[:12]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("spegel_py.admin.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "size": size,
        "span": span,
        "rate": lambda count: f"{size(count)}/s",
        "share": lambda part: f"{part:.1%}" if part < 1 else "100%",
        "count": lambda number: f"{number:,}",
        "plural": plural,
        "clock": clock,
        "iso": iso,
        "stamp": stamp,
        "short": short_digest,
    }
    made.globals |= {"version": version}
    return made


def clock(seconds: float) -> str:
    """Return a Unix time as the time of day in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def stamp(seconds: float) -> str:
    """Return a Unix time as date and time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def iso(seconds: float) -> str:
    """Return a Unix time for the attribute of a `time` element."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
