"""The output of commands: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spegel_py.tools.human import moment, size, span

__all__ = ["moment", "print_json", "print_line", "print_table", "size", "span"]

WIDTH = 200
"""Columns in a file or a pipe: wide, so that no line is folded and grep finds it."""


def print_json(answer: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(answer) + "\n")


def print_line(text: str, *, style: str = "") -> None:
    """Print a line of text without folding it."""
    _console().print(Text(text, style=style), soft_wrap=True)


def print_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, wraps: str = "", indent: int = 0
) -> None:
    """Print rows below their titles; the column `wraps` is folded on a narrow terminal."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title != wraps, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # brackets of an IPv6 address are not markup
    _console().print(Padding(table, (0, 0, 0, indent), expand=False))


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
