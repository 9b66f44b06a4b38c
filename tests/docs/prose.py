"""Check the English of docstrings and pages: `python -m tests.docs.prose [--worst N]`.

Two ratios, in per cent of all sentences, count the faults that make prose hard to read:

- unnamed: "what", "who" or "whoever" stands in place of a noun, so the subject has no name;
- chained: "those that", "the one of it" and the like refer to a subject named elsewhere.

STYLE.md has the rules. The exit status is 1 if a ratio is above its limit, or if a line of a
page's prose is longer than 100 columns. The patterns are heuristics: a sentence that they miss may
still be hard to read, and `--worst` shows the sentences that count.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

COLUMNS = 100
"""Columns of a line of prose."""

PACKAGE_LIMIT = 2.0
"""Per cent of the package's sentences that may be unnamed, and that may be chained."""

PAGES_LIMIT = 2.0
"""The same for the sentences of all pages together."""

_NOUN = r"(?:what|who|whom|whose|whoever|whatever)"

UNNAMED = re.compile(
    rf"^{_NOUN}\b"
    rf"|[,;:.] {_NOUN}\b"
    rf"|\b(?:of|to|from|with|for|by|than|say|says|told|tell|return|returns)\s{_NOUN}\b",
    re.IGNORECASE,
)
"""A relative pronoun at the start of a clause, or as the object of a verb or preposition."""

CHAINED = re.compile(
    r"\b(?:(?:one|those|that) that|those who|(?:that|this|another) one|the others"
    r"|of (?:these|those|that|it|them)"
    r"|whoever|who (?:is|was|has|asks|follows|leads|writes|reads))\b",
    re.IGNORECASE,
)
"""A pronoun that refers to another pronoun, or to a subject in an earlier sentence."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of prose, and the file that has it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """The sentences of one body of text, and the faulty sentences among them."""

    name: str
    sentences: list[Sentence]
    unnamed: list[Sentence]
    chained: list[Sentence]

    @classmethod
    def of(cls, name: str, sentences: Iterator[Sentence]) -> Report:
        """Count the faults of the given sentences."""
        found = list(sentences)
        unnamed, chained = (
            [each for each in found if pattern.search(each.text)] for pattern in (UNNAMED, CHAINED)
        )
        return cls(name, found, unnamed, chained)

    def ratios(self) -> tuple[float, float]:
        """Return the per cent of unnamed and of chained sentences."""
        count = max(1, len(self.sentences))
        return 100 * len(self.unnamed) / count, 100 * len(self.chained) / count

    def __str__(self) -> str:
        lengths = sorted(len(each.text.split()) for each in self.sentences) or [0]
        median, p90 = lengths[len(lengths) // 2], lengths[len(lengths) * 9 // 10]
        unnamed, chained = self.ratios()
        return (
            f"{self.name}: {len(self.sentences)} sentences, words: median {median}, p90 {p90}; "
            f"unnamed {unnamed:.1f} %, chained {chained:.1f} %"
        )


def package(root: Path = ROOT / "spegel_py") -> Iterator[Sentence]:
    """Yield the sentences of all docstrings below a folder, those of constants included."""
    for path in sorted(root.rglob("*.py")):
        if "_pb2" not in path.name:
            for text in docstrings(ast.parse(path.read_text())):
                yield from _sentences(path, text)


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, of its classes and functions, and of its constants."""
    for node in ast.walk(tree):
        documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
        if isinstance(node, ast.ClassDef | ast.Module):
            for before, after in zip(node.body, node.body[1:], strict=False):
                match before, after:
                    case (
                        ast.Assign() | ast.AnnAssign(),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        yield text


def pages() -> list[Path]:
    """Return every Markdown page of the repository."""
    folders = (ROOT / "docs", ROOT / "deploy")
    return [
        *sorted(ROOT.glob("*.md")),
        *(page for folder in folders for page in sorted(folder.rglob("*.md"))),
    ]


def prose(text: str) -> str:
    """Return a page without its code, tables, comments and headings."""
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.sub(r"^(?:\||#).*$", "", text, flags=re.MULTILINE)


def page(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of a page. Each item of a list begins a new sentence."""
    yield from _sentences(
        path, re.sub(r"^ *(?:[-*]|\d+\.) ", "\n\n", prose(path.read_text()), flags=re.MULTILINE)
    )


def long_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a page's prose that are too long. A single long link may stay."""
    for line in prose(path.read_text()).splitlines():
        if len(line) > COLUMNS and len(line.split()) > 2:
            yield f"{_name(path)}: {len(line)} columns: {line[:60]}…"


def _sentences(path: Path, text: str) -> Iterator[Sentence]:
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", paragraph).strip()):
            if len(sentence.split()) > 3:
                yield Sentence(_name(path), sentence)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main(arguments: list[str] | None = None) -> int:
    """Print both reports; returns the exit status."""
    parser = argparse.ArgumentParser(description="Check the English of docstrings and pages.")
    parser.add_argument("--worst", type=int, default=5, help="faulty sentences shown of each kind")
    parser.add_argument("paths", nargs="*", type=Path, help="pages or folders of code; all if none")
    given = parser.parse_args(arguments)
    failed = False
    for report, limit in _reports(given.paths):
        print(report)
        is_over = max(report.ratios()) > limit
        failed |= is_over
        if is_over or given.paths:
            for kind, found in (("unnamed", report.unnamed), ("chained", report.chained)):
                for each in found[: given.worst]:
                    print(f"  {kind}: {each.path}: {each.text[:150]}")
    too_long = [line for path in pages() for line in long_lines(path)]
    for line in too_long[: given.worst]:
        print(line)
    return 1 if failed or too_long else 0


def _reports(paths: list[Path]) -> Iterator[tuple[Report, float]]:
    for path in paths:
        sentences = package(path.resolve()) if path.is_dir() else page(path.resolve())
        yield Report.of(str(path), sentences), PAGES_LIMIT
    if not paths:
        yield Report.of("spegel_py", package()), PACKAGE_LIMIT
        yield Report.of("pages", (each for path in pages() for each in page(path))), PAGES_LIMIT


if __name__ == "__main__":
    sys.exit(main())
