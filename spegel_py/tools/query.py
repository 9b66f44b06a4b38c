"""Numbers in the query of a URL."""

from __future__ import annotations

from spegel_py.errors import RequestInvalid


def whole_number(text: str | None, name: str, *, default: int, low: int, high: int) -> int:
    """Return the number given as `?name=`, or the default if the query has no such parameter.

    Raises RequestInvalid for any text but a whole number from `low` to `high`.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise RequestInvalid(
            f"?{name}= should be a whole number from {low} to {high}, not {text[:20]!r}"
        )
    return int(text)
