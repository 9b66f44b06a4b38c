"""What lets a shell complete commands, flags and values: a script made from the parser, so it cannot be stale."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `completion`."""
    parser.epilog = (
        'bash: eval "$(spegel-py completion bash)" in ~/.bashrc; zsh: spegel-py completion zsh > a folder of '
        "$fpath/_spegel-py; fish: spegel-py completion fish > ~/.config/fish/completions/spegel-py.fish"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for a shell. The parser is changed by it, and is not to be parsed with any more."""
    _offer(parser)
    return shtab.complete(parser, shell=shell)


def _offer(parser: argparse.ArgumentParser) -> None:
    """Say of each argument what it may be: argparse knows choices of its own alone, and settings check theirs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _offer(below)
        elif offers := getattr(action, "offers", ()):
            action.choices = list(offers)
        elif action.type is Path or getattr(action, "is_path", False):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
