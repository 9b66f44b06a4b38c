"""The findings of checks, as values, as lines for people, and as JSON. Pure.

The JSON object is `{"ok": bool, "findings": [{"check": str, "level": "ok" | "warning" | "error",
"finding": str, "remedy": str | null}, …]}`. `ok` is true if no level is "error", and the exit
status agrees. The checks are `containerd`, `config_path`, `discard_unpacked_layers`, `hosts.toml`,
`proxy`, `set_aside`, `content_path`, `node`, `peers`, `clock` and `pull`. A check is left out if
another failure makes it pointless, and may have several findings. Keys may be added.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


class Level(Enum):
    """Severity of a finding; the values are those of `--json`."""

    OK = "ok"
    WARNING = "warning"
    """The node works, or soon will, but not as well as it could."""
    ERROR = "error"
    """The node is useless, or much less useful, until somebody acts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report. Every finding but OK has a remedy: a command or a setting."""

    check: str
    level: Level
    text: str
    remedy: str | None = None


def ok(check: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that needs attention."""
    return Finding(check, Level.WARNING, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that needs a repair."""
    return Finding(check, Level.ERROR, text, remedy)


_SIGNS = {Level.OK: "✓", Level.WARNING: "!", Level.ERROR: "✗"}
_PLAIN = {Level.OK: "+", Level.WARNING: "!", Level.ERROR: "x"}
_STYLES = {Level.OK: "green", Level.WARNING: "bold yellow", Level.ERROR: "bold red"}
_WIDTH = len("discard_unpacked_layers")


def status(findings: Sequence[Finding]) -> int:
    """Return the exit status: 1 if a finding is an error."""
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


def as_lines(
    findings: Sequence[Finding], *, encoding: str, width: int | None = None
) -> Iterator[Text]:
    """Yield the findings as lines, without characters that `encoding` cannot write.

    Findings are folded at `width`. Remedies are not: a command in them must be copied whole.
    """
    from rich.text import Text  # a node logs its findings without it

    is_plain = _writable("✓✗→", encoding) != "✓✗→"
    signs, arrow = (_PLAIN, "->") if is_plain else (_SIGNS, "→")
    for one in findings:
        first, *rest = _folded(one.text, width)
        text = _writable(f" {one.check:{_WIDTH}} {first}", encoding)
        yield Text.assemble((signs[one.level], _STYLES[one.level]), text)
        for line in rest:
            yield Text(_writable(f"  {'':{_WIDTH}} {line}", encoding))
        if one.remedy:
            yield Text(_writable(f"  {'':{_WIDTH}} {arrow} {one.remedy}", encoding))


def _folded(text: str, width: int | None) -> list[str]:
    if width is None:
        return [text]
    column = max(width - _WIDTH - 3, _WIDTH)
    lines = textwrap.wrap(text, column, break_long_words=False, break_on_hyphens=False)
    return lines or [text]


def _writable(text: str, encoding: str) -> str:
    return text.encode(encoding, "replace").decode(encoding)
