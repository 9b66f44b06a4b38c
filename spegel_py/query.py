"""What the query of a URL says, as the routes for people read it."""

from __future__ import annotations

from spegel_py.errors import RequestInvalid


def whole_number(text: str | None, name: str, *, default: int, low: int, high: int) -> int:
    """Return the number that a query gives by this name, the default where it gives none. Raises RequestInvalid."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise RequestInvalid(
            f"?{name}= should be a whole number from {low} to {high}, not {text[:20]!r}"
        )
    return int(text)
