"""The output of commands: tables for people, one JSON object for programs.

On a terminal every line fits: ids and digests are shortened, and so are names where they must be.
`--wide` and `--json` show them whole. In a file or a pipe no line is folded and no name is
shortened, so that grep finds it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from spegel_py.tools.human import moment, plural, size, span
from spegel_py.tools.human import short_digest as first_digits

__all__ = [
    "add_json_flag",
    "add_output_flags",
    "moment",
    "plural",
    "print_fields",
    "print_json",
    "print_line",
    "print_table",
    "short_digest",
    "short_id",
    "shortened",
    "size",
    "span",
]

_DIGEST = re.compile(r"\b(sha256|sha512):([0-9a-f]{12})[0-9a-f]{52,}")
_PEER_ID = re.compile(r"\b(?:12D3Koo|Qm)[1-9A-HJ-NP-Za-km-z]{30,}")

NARROWEST = 12
"""Characters of a name that are left at least, on a terminal that is too narrow for a table."""


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Give the parser `--json`."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object and nothing else"
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser `--json` and `--wide`."""
    add_json_flag(parser)
    parser.add_argument(
        "--wide", action="store_true", help="show ids, digests and names whole, on long lines"
    )


def print_json(answer: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(answer) + "\n")


def short_id(peer: str, *, wide: bool = False) -> str:
    """Return the end of a peer's id; the beginning is the same for all peers."""
    return peer if wide or len(peer) <= 12 else f"…{peer[-8:]}"


def short_digest(digest: str, *, wide: bool = False) -> str:
    """Return the first characters of a digest, enough to tell digests apart on a screen."""
    return digest if wide else first_digits(digest)


def shortened(text: str, *, wide: bool = False) -> str:
    """Return a text with its digests and ids shortened."""
    if wide:
        return text
    return _PEER_ID.sub(lambda found: short_id(found[0]), _DIGEST.sub(r"\1:\2…", text))


def print_line(
    text: str, *, style: str = "", indent: int = 0, hanging: int = 2, wide: bool = False
) -> None:
    """Print a line; on a terminal it is folded between words, the rest `hanging` deeper.

    A word that is longer than the terminal, as a name may be, is shortened unless `wide`.
    """
    for line in [" " * indent + text] if wide else _folded(text, indent, indent + hanging):
        _print(line, style)


def print_fields(rows: Iterable[tuple[str, str]]) -> None:
    """Print names with their values, which are folded beside the names."""
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0) + 2
    for name, text in listed:
        lines = _folded(text, width, width)
        _print(f"{name:{width}}{lines[0].lstrip()}" if lines else name)
        for line in lines[1:]:
            _print(line)


def print_table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    shrinks: Sequence[str] = (),
    notes: Sequence[str] = (),
    indent: int = 0,
    wide: bool = False,
) -> None:
    """Print rows below their titles.

    Args:
        shrinks: titles of columns whose cells are shortened where the terminal is too narrow, the
            first column first.
        notes: a text below each row, which is folded; an empty text is left out.
        wide: do not shorten.
    """
    lines = [list(titles), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    if not wide and (limit := _width()) is not None:
        excess = indent + sum(widths) + 2 * (len(widths) - 1) - limit
        for title in shrinks:
            column = list(titles).index(title)
            less = max(0, min(excess, widths[column] - NARROWEST))
            widths[column], excess = widths[column] - less, excess - less
            for line in lines:
                line[column] = _in_the_middle(line[column], widths[column])
    for number, line in enumerate(lines):
        cells = [f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)]
        _print(f"{' ' * indent}{'  '.join(cells)}".rstrip(), "bold" if number == 0 else "")
        if number and len(notes) >= number and notes[number - 1]:
            print_line(notes[number - 1], indent=indent + 4, hanging=0)


def _in_the_middle(text: str, width: int) -> str:
    """Return a text of at most `width` characters; its end, often a tag, stays the longest."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[head + 1 - width :]}"


def _folded(text: str, first: int, rest: int) -> list[str]:
    """Return the lines of a text; no word is broken."""
    if (limit := _width()) is None:
        return [" " * first + text]
    limit = max(limit, rest + NARROWEST)
    return textwrap.wrap(
        " ".join(_in_the_middle(word, limit - rest) for word in text.split(" ")),
        limit,
        initial_indent=" " * first,
        subsequent_indent=" " * rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int | None:
    """Return the columns of the terminal; None in a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print(line: str, style: str = "") -> None:
    # Brackets of an IPv6 address are no markup. Rich leaves colours away in pipes and for NO_COLOR.
    Console(highlight=False).print(Text(line, style=style), soft_wrap=True)
