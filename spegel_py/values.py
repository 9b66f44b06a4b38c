"""The values of settings: how each kind is read from text or from a YAML value.

Each function raises ValueError that tells what the value should be.
"""

from __future__ import annotations

import ipaddress
import re
import reprlib
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spegel_py.oci.filters import Pattern
from spegel_py.tools import human
from spegel_py.tools.addresses import is_http_url, split_host_port
from spegel_py.tools.zones import is_zone

Parse = Callable[[Any], Any]
"""Returns a setting's value from text (of a flag or variable) or from a YAML value."""

_DURATION_PART = re.compile(r"(\d++(?:\.\d++)?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d++(?:\.\d++)?) ?(?:([kKMGT])(i?))?(B?)(/s)?")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_OPEN_COUNT, _REST_OF_COUNT = re.compile(r"\{[0-9]*$"), re.compile(r"^[0-9]*\}")
MAX_QUOTED = 200
"""Characters of a value that an error shows."""

_SHORTENED = reprlib.Repr()
_SHORTENED.maxlevel = 2
_SHORTENED.maxstring = _SHORTENED.maxother = _SHORTENED.maxlong = 160
_TRUE, _FALSE = ("true", "1", "t", "yes", "on"), ("false", "0", "f", "no", "off")


def text(given: Any) -> str:
    """Return any text."""
    if isinstance(given, (dict, list)):
        raise ValueError(f"{quoted(given)} should be text")
    return str(given)


def text_or_off(given: Any) -> str:
    """Return any text; YAML reads `off` as false."""
    return "off" if given is False else text(given)


def quoted(given: Any) -> str:
    """Return a value as an error shows it, shortened.

    A YAML value may be long, or contain itself a billion times.
    """
    shown = _SHORTENED.repr(given)
    return shown if len(shown) <= MAX_QUOTED else f"{shown[:MAX_QUOTED]}…"


def _written(given: Any) -> str:
    """Return a scalar as text; empty for a list or a mapping."""
    return "" if isinstance(given, (dict, list)) else str(given)


def boolean(given: Any) -> bool:
    """Return a truth value."""
    if isinstance(given, bool):
        return given
    if _written(given).lower() in _TRUE:
        return True
    if _written(given).lower() in _FALSE:
        return False
    raise ValueError(f"{quoted(given)} should be true or false")


def duration(given: Any) -> float:
    """Return the seconds of a duration as Go writes it, and in days: 20ms, 1m30s, 1d, 0."""
    written = _written(given).strip()
    if written == "0":
        return 0.0
    # Matched from the beginning only: a search in one long number would take quadratic time.
    if not _DURATION.fullmatch(written):
        raise ValueError(f"{quoted(given)} should be a duration such as 20ms, 5s, 90m or 1d")
    parts = _DURATION_PART.findall(written)
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def duration_or_off(given: Any) -> float | None:
    """Return the seconds of a duration; None for off."""
    written = text_or_off(given)
    try:
        return None if written == "off" else duration(written)
    except ValueError:
        raise ValueError(
            f"{quoted(given)} should be off or a duration such as 30s, 90m or 1d"
        ) from None


def integer(low: int, high: int) -> Parse:
    """Return a parser of whole numbers within bounds."""

    def parse(given: Any) -> int:
        try:
            number = int(_written(given))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"{quoted(given)} should be a whole number from {low} to {high}")
        return number

    return parse


def seconds(low: float, high: float) -> Parse:
    """Return a parser of durations within bounds, in seconds."""

    def parse(given: Any) -> float:
        value = duration(given)
        if not low <= value <= high:
            bounds = f"{written_duration(low)} and {written_duration(high)}"
            raise ValueError(f"{quoted(given)} should lie between {bounds}")
        return value

    return parse


def written_duration(given: float) -> str:
    """Return a number of seconds as a setting takes it, in the largest unit that fits."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if given >= length * (2 if unit == "d" else 1) and given % length == 0:
            return f"{given / length:.0f}{unit}"
    if given == 0:
        return "0s"
    return f"{given:g}s" if given >= 1 else f"{given * 1000:g}ms"


def size(low: int, high: int, *, plain: int = 1) -> Parse:
    """Return a parser of numbers of bytes within bounds: 64KiB, 10MB, 1.5GiB.

    A number without a unit counts `plain` bytes each.
    """
    return _bytes(low, high, plain, "size", ("10MB", "64MiB"), has_time=False)


def rate(low: int, high: int, *, plain: int = 1) -> Parse:
    """Return a parser of bytes per second within bounds: 10MB/s, 10MiB/s, 10MB.

    A number without a unit counts `plain` bytes each.
    """
    return _bytes(low, high, plain, "rate", ("10MB/s", "64MiB/s"), has_time=True)


def _bytes(
    low: int, high: int, plain: int, noun: str, examples: tuple[str, str], *, has_time: bool
) -> Parse:
    advice = f"should be a {noun} such as {examples[0]} or {examples[1]}"

    def parse(given: Any) -> int:
        found = None if isinstance(given, bool) else _SIZE.fullmatch(_written(given).strip())
        if found is None or (found[5] and not has_time):
            raise ValueError(f"{quoted(given)} {advice}")
        number, prefix, binary, byte, _ = found.groups("")
        factor = (1024 if binary else 1000) ** _POWERS[prefix.upper()] if prefix or byte else plain
        count = Decimal(number) * factor
        if not low <= count <= high:
            ending = "/s" if has_time else ""
            bounds = f"{human.size(low)}{ending} and {human.size(high)}{ending}"
            raise ValueError(f"{quoted(given)} should lie between {bounds}, as {examples[0]} does")
        return int(count)

    return parse


NONE = "none"
"""The word for an empty value. An environment variable that is empty counts as not set."""


def path(given: Any) -> Path | None:
    """Return a path; None for empty text, and for `none`."""
    return Path(text(given)) if text(given) not in ("", NONE) else None


def needed_path(given: Any) -> Path:
    """Return a path. Raises ValueError for empty text."""
    if (found := path(given)) is None:
        raise ValueError("it is empty: give a path")
    return found


def texts(given: Any) -> tuple[str, ...]:
    """Return several values, given as separate arguments or as one text with commas."""
    items = given if isinstance(given, list) else [given]
    return tuple(part.strip() for item in items for part in text(item).split(",") if part.strip())


def patterns(given: Any) -> tuple[Pattern, ...]:
    """Return regular expressions in Go's syntax, given as separate arguments or as a YAML list.

    A comma is part of the expression. Spegel's filters are Go expressions, which have the syntax
    and the meaning of RE2. Both match in linear time.
    """
    items = [text(item) for item in (given if isinstance(given, list) else [given])]
    for item, following in pairwise(items):
        if _OPEN_COUNT.search(item) and _REST_OF_COUNT.search(following):
            halves = f"{quoted(item)} and {quoted(following)}"
            raise ValueError(f"{halves} look like one expression: put it in double quotes")
    return tuple(_pattern(item) for item in items)


def _pattern(written: str) -> Pattern:
    import re2  # 1 MB of memory, which only a node with filters needs

    options = re2.Options()
    options.log_errors = False  # they would go to stderr, past the log
    options.never_capture = True  # groups are not used, and capturing them takes longer
    try:
        found: Pattern = re2.compile(written, options)
    except (re2.error, UnicodeEncodeError) as error:
        cause = (
            error.args[0].decode(errors="replace") if isinstance(error, re2.error) else str(error)
        )
        fault = f"{quoted(written)} is not a regular expression of Go (RE2): {cause[:200]}"
        raise ValueError(fault) from error
    return found


def address(given: Any) -> str:
    """Return an address to listen on: host:port or :port, where the host is an IP address."""
    written = text(given)
    try:
        host, _ = split_host_port(written)
        if host:
            ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{quoted(written)} should be an address such as :5000, 10.0.0.1:5000 or [::1]:5000"
        ) from None
    return written


def address_or_none(given: Any) -> str:
    """Return an address to listen on; empty for empty text, and for `none`."""
    return "" if given in ("", NONE, None) else address(given)


def zone(given: Any) -> str:
    """Return the name of a zone; empty for none."""
    if (written := text(given)) and not is_zone(written):
        raise ValueError(
            f"{quoted(written)} should be a zone: at most 63 letters, digits, dots, dashes and "
            "underscores, such as eu-1a"
        )
    return written


def traces_url(given: Any) -> str | None:
    """Return the URL that spans are sent to; None for empty text, and for `none`.

    A URL without a path gets the path that OTLP defines for spans.
    """
    written = text(given)
    if written in ("", NONE):
        return None
    if not is_http_url(written):
        raise ValueError(f"{quoted(written)} should be a URL such as http://collector:4318")
    return (
        written if urlsplit(written).path not in ("", "/") else f"{written.rstrip('/')}/v1/traces"
    )
