"""`spegel-py completion`: print a script with which a shell completes commands, flags and values.

The script is made from the parser, so it is never out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `completion`."""
    parser.epilog = (
        'bash: eval "$(spegel-py completion bash)" in ~/.bashrc; '
        "zsh: spegel-py completion zsh > a folder of $fpath/_spegel-py; "
        "fish: spegel-py completion fish > ~/.config/fish/completions/spegel-py.fish"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(options: argparse.Namespace) -> int:
    """Print the script; returns the exit status."""
    parser = options.parser_of_all()
    _add_choices(parser)
    sys.stdout.write(shtab.complete(parser, shell=options.shell) + "\n")
    return 0


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Tell shtab the values of every argument. The parser must not parse anything afterwards.

    argparse does not know the choices of settings, because a setting checks its value itself.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _add_choices(below)
        elif offers := getattr(action, "offers", ()):
            action.choices = list(offers)
        elif action.type is Path or getattr(action, "is_path", False):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
