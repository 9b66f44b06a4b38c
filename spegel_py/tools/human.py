"""Sizes and times as text for people, in commands and on the status page."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Return a number of bytes in a suitable unit."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} B" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def moment(seconds: float) -> str:
    """Return a Unix time in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def span(seconds: float | None) -> str:
    """Return a number of seconds in a suitable unit; a dash for None."""
    if seconds is None:
        return "-"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, as in `1 peer` and `2 peers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_digest(digest: str) -> str:
    """Return the first characters of a digest, enough to tell digests apart on a screen."""
    return digest.partition(":")[2][:12] or digest
