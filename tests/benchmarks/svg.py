"""The few shapes that the drawings are made of, as SVG; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = "font-family:sans-serif;font-size:11px;fill:#333"


def drawing(width: float, height: float, parts: Sequence[str]) -> str:
    """Return these parts on white, as one file."""
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'style="{_STYLE}">'
            ),
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a filled rectangle; `y` is its upper edge."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height:.1f}" fill="{colour}"/>'


def text(x: float, y: float, what: str) -> str:
    """Return a line of text; `y` is what it stands on."""
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(what)}</text>'


def legend(left: float, colours: Mapping[str, str]) -> list[str]:
    """Return a square of each colour with its name, in one row below the title."""
    parts = []
    for number, (name, colour) in enumerate(colours.items()):
        parts += [
            bar(left + 130 * number, 28, 11, 11, colour),
            text(left + 16 + 130 * number, 38, name),
        ]
    return parts
