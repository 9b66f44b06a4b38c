"""TOML texts of runtimes, parsed so that order, comments and spaces can be written again. Pure."""

from __future__ import annotations

import tomlkit
from tomlkit.exceptions import TOMLKitError


def parse_toml(text: str) -> tomlkit.TOMLDocument:
    """Return the document of a text. Raises ValueError, with the line, if it is not TOML."""
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, ValueError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"line {getattr(error, 'line', 1)}: it is not TOML: {cause}") from error
