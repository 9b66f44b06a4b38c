"""The commands of a page, and the output that the page shows for them, as a test runs them.

A comment before a block of code says where it runs, and a comment before the next block says that
it is the output:

    <!-- runs on 10.0.0.1 and 10.0.0.2 -->
    <!-- runs on 10.0.0.1, with the internet -->
    <!-- runs on a machine with kubectl and helm -->
    <!-- prints -->

A page may tell several stories. `<!-- service: runs on 10.0.0.1 -->` is a part of another one.

In an output, a line with `…` alone stands for any lines. Times, ids, digests and versions are
compared as such; everything else must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^<!-- (?:(?P<story>\w+): )?(?P<mark>runs on [^>]*|prints) -->\n+"
    r"```[a-z]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NOTE = re.compile(r"^<!-- (?P<note>the registry is (?:stopped|back)) -->$", re.MULTILINE)

_VARYING = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+Z)?", "DATE"),
    (r"\b(?:[\d.]+|0) (?:ms|s|min|h|d)\b", "TIME"),
    (r"…[1-9A-HJ-NP-Za-km-z]{8}\b", "ID"),
    (r"\bsha256:[0-9a-f]{12,64}…?", "DIGEST"),
    (r"\b[0-9a-f]{12}\b", "DIGEST"),
    (r"\b\d+\.\d+\.\d+(?=,)", "VERSION"),
    (r" +", " "),
)


@dataclass(frozen=True, slots=True)
class Example:
    """Commands, and their output if the page shows it.

    `hosts` are empty for a machine of no address. `event` is a change of the surroundings before
    the commands. `line` is that of the page.
    """

    hosts: tuple[str, ...]
    code: str
    prints: str | None
    needs_internet: bool
    event: str | None
    line: int


def examples(page: Path, *, story: str = "") -> list[Example]:
    """Return the commands of a page that are marked for a story, in their order."""
    return list(_examples(page.read_text(), story))


def _examples(text: str, story: str) -> Iterator[Example]:
    blocks = list(_BLOCK.finditer(text))
    end = 0
    for number, block in enumerate(blocks):
        if block["mark"] == "prints" or (block["story"] or "") != story:
            continue
        following = blocks[number + 1] if number + 1 < len(blocks) else None
        has_output = following is not None and following["mark"] == "prints"
        notes = [each["note"] for each in _NOTE.finditer(text, end, block.start())]
        end = block.end()
        yield Example(
            hosts=tuple(re.findall(r"\d+\.\d+\.\d+\.\d+", block["mark"])),
            code=block["code"],
            prints=following["code"] if has_output and following else None,
            needs_internet="internet" in block["mark"],
            event=notes[-1] if notes else None,
            line=text.count("\n", 0, block.start()) + 1,
        )


def fits(output: str, expected: str) -> bool:
    """Return True if a command's output is the one that the page shows."""
    parts = [_plain(part) for part in re.split(r"^…\n", expected, flags=re.MULTILINE)]
    wanted = r"(?:.*\n)*?".join(re.escape(part) for part in parts)
    return re.fullmatch(wanted, _plain(output)) is not None


def _plain(text: str) -> str:
    """Return a text in which everything that varies has a name."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return "".join(f"{line.strip()}\n" for line in text.splitlines())
