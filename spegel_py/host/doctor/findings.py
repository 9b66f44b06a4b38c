"""What a check found, as a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from rich.text import Text


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


_SIGNS = {Level.OK: "✓", Level.WARNING: "!", Level.ERROR: "✗"}
_PLAIN = {Level.OK: "+", Level.WARNING: "!", Level.ERROR: "x"}
_STYLES = {Level.OK: "green", Level.WARNING: "bold yellow", Level.ERROR: "bold red"}
_WIDTH = len("discard_unpacked_layers")


def status(findings: Sequence[Finding]) -> int:
    """Return the exit status: 1 if there is anything that must be mended."""
    return int(any(finding.level is Level.ERROR for finding in findings))


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return the findings as JSON values."""
    return {
        "ok": status(findings) == 0,
        "findings": [
            {
                "check": one.check,
                "level": one.level.value,
                "finding": one.text,
                "remedy": one.remedy,
            }
            for one in findings
        ],
    }


def as_lines(findings: Sequence[Finding], *, encoding: str) -> Iterator[Text]:
    """Yield the findings for people, with nothing that `encoding` cannot write."""
    is_plain = _writable("✓✗→", encoding) != "✓✗→"
    signs, arrow = (_PLAIN, "->") if is_plain else (_SIGNS, "→")
    for one in findings:
        text = _writable(f" {one.check:{_WIDTH}} {one.text}", encoding)
        yield Text.assemble((signs[one.level], _STYLES[one.level]), text)
        if one.remedy:
            yield Text(_writable(f"  {'':{_WIDTH}} {arrow} {one.remedy}", encoding))


def _writable(text: str, encoding: str) -> str:
    return text.encode(encoding, "replace").decode(encoding)
