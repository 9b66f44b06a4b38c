"""The output of `configuration` and `cleanup`: lines for people, one JSON object, or a log.

A person gets sentences. A program that runs the command, such as a Pod or a service, asks for its
log with `--log-format json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Any

from spegel_py.commands.output import print_line
from spegel_py.host.changes import ChangeKind, RegistryChange
from spegel_py.telemetry import logging

Advice = Callable[[RegistryChange], str]


class Output(Enum):
    """The form of a command's output."""

    TEXT = auto()
    OBJECT = auto()
    LOG = auto()


def set_up(options: argparse.Namespace, values: Mapping[str, Any]) -> Output:
    """Set up the log, and return the form of the output: `--json` goes before `--log-format`."""
    if options.json:
        # Warnings that no object has a place for still appear on stderr.
        logging.configure(level="WARNING", log_format="text")
        return Output.OBJECT
    logging.configure(level=values["log_level"], log_format=values["log_format"])
    return Output.TEXT if values["log_format"] == "text" else Output.LOG


def print_changes(
    found: Iterable[RegistryChange], *, advice: Advice = lambda _: "", is_done: bool = True
) -> None:
    """Print a line for each registry, and below it the copy of a file that was changed by hand.

    Args:
        advice: returns the words that end the line about the copy.
        is_done: False for changes that a dry run would make.
    """
    verb = "copied" if is_done else "it will be copied"
    for one in found:
        print_line(f"{one.kind.value:9}  {one.registry}{_effect(one)}", indent=2, hanging=11)
        if one.copy is not None:
            text = f"changed by hand since the last run; {verb} to {one.copy}{advice(one)}"
            print_line(text, indent=13, hanging=0)


def _effect(one: RegistryChange) -> str:
    match one.kind:
        case ChangeKind.REMOVED if one.remedy:
            return f": containerd asks the mirror for it no longer; to keep it: {one.remedy}"
        case ChangeKind.SET_ASIDE if one.remedy:
            return f" until cleanup; {one.remedy}"
        case ChangeKind.SET_ASIDE:
            return " until cleanup"
    return ""
