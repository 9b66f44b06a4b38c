"""Write the page of all commands, from the program's parsers: `python -m tests.docs.commands`."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from spegel_py.cli import COMMANDS, Command
from spegel_py.settings import Parser

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"

_HEAD = """\
# Commands

<!-- Made by `make docs` from the program's own parsers: change the help text there. -->

`spegel-py COMMAND --help` prints the same. Wrong input ends a command with one line that names the
fault, and exit status 2. The commands that ask a running node reach it at its metrics address on
this machine (`--metrics-addr`), or anywhere with `--node`. `eval "$(spegel-py completion bash)"`
lets the shell complete commands, flags and values (zsh and fish too).

"""

_REGISTRY = "Its flags are the settings of a node: see [configuration](configuration.md).\n\n"


def render() -> str:
    """Return the page."""
    return _HEAD + "".join(_section(command) for command in COMMANDS).rstrip("\n") + "\n"


def _section(command: Command) -> str:
    parser = Parser(prog=f"spegel-py {command.name}", allow_abbrev=False)
    command.add_arguments(parser)
    title = f"## {command.name}\n\n{command.help[0].upper()}{command.help[1:]}.\n\n"
    if command.name == "registry":
        return title + _REGISTRY
    rows = "".join(_rows(parser))
    table = f"| argument | meaning |\n|---|---|\n{rows}\n" if rows else ""
    text = textwrap.fill(parser.epilog or "", 98, break_long_words=False, break_on_hyphens=False)
    epilog = f"{text}\n\n" if text else ""
    return title + table + epilog


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest != "help":
            name = ", ".join(action.option_strings)
            value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
            meaning = parser._get_formatter()._expand_help(action) if action.help else ""
            yield f"| `{_cell(f'{name} {value}'.strip())}` | {_cell(meaning)} |\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render())
