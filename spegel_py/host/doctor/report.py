"""How findings are shown: lines for people, one JSON object for programs. Pure.

The object is `{"ok": bool, "findings": [{"check": str, "level": "ok" | "warning" | "error", "finding": str,
"remedy": str | null}, …]}`, where `ok` says that no level is "error", as the exit status does. The checks are
`containerd`, `config_path`, `discard_unpacked_layers`, `hosts.toml`, `proxy`, `set_aside`, `content_path`, `node`,
`peers`, `clock` and `pull`; one that another one's failure makes pointless is left out, and one may have several
findings. Keys may be added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from spegel_py.host.doctor.finding import Finding, Level

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
