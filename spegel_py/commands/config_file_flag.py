"""The flag `--config`: one file for all commands, which may have the settings of any of them."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

from spegel_py.config import REGISTRY, of_host


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flag `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        help="YAML file of settings, of the node and of this command: the flags' names with "
        "underscores",
    )


@cache
def other_settings() -> frozenset[str]:
    """Return the names of all settings that a file may have."""
    return of_host() | {setting.name for setting in REGISTRY}
