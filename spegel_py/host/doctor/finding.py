"""What a check found, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is; the values are those of `--json`."""

    OK = "ok"
    WARNING = "warning"
    """It works, or will by itself, but not as well as it could."""
    ERROR = "error"
    """The node is of no use, or of much less, until somebody does something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. Whatever is not OK has a remedy: what to type or to set."""

    check: str
    level: Level
    text: str
    remedy: str | None = None


def ok(check: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that asks for attention."""
    return Finding(check, Level.WARNING, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(check, Level.ERROR, text, remedy)
