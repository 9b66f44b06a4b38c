"""`spegel-py registry`: run a node until it is told to stop."""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

import uvloop

from spegel_py import node, settings
from spegel_py.config import REGISTRY, Config
from spegel_py.errors import SpegelError
from spegel_py.telemetry import logging

YOUNG = 5000
"""Objects allocated, less those freed, between two collections of the youngest generation.

Python's own 700 would mean 25 collections during each pull.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags of `registry`."""
    parser.epilog = (
        "Settings come from flags, then environment variables, then --config, then defaults."
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file of settings: the flags' names with underscores"
    )
    settings.add_flags(parser, REGISTRY)


def run(options: argparse.Namespace) -> int:
    """Run the node; returns the exit status. Raises SpegelError if it cannot start or go on."""
    config = Config.load(flags=vars(options), environment=os.environ, file=options.config)
    logging.configure(level=config.log_level, log_format=config.log_format)
    # Imported modules stay: without this, each full collection would traverse them for 70 ms.
    gc.freeze()
    gc.set_threshold(YOUNG)
    try:
        uvloop.run(node.run(config))
    except* SpegelError as group:
        raise _first(group) from None
    return 0


def _first(group: BaseExceptionGroup[SpegelError]) -> SpegelError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an empty exception group")
