"""The commands of the pages are found, and their output is compared as a reader would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spegel_py.cli import _parser
from tests.docs.examples import Example, examples, fits

ROOT = Path(__file__).parents[2]

PAGE = """\
# A guide

<!-- runs on 10.0.0.1 and 10.0.0.2, with the internet -->
```
install it
```

Text, and code that is not run:

```
not this
```

<!-- the registry is stopped -->

<!-- runs on 10.0.0.2 -->
```sh
spegel-py status
```

<!-- prints -->
```
ready  yes
```
"""


def test_marked_commands_are_found_in_their_order(tmp_path: Path) -> None:
    """With the hosts that they run on, and the output that is shown."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    both = ("10.0.0.1", "10.0.0.2")
    assert examples(page) == [
        Example(both, "install it\n", None, True, None, 3),
        Example(
            ("10.0.0.2",),
            "spegel-py status\n",
            "ready  yes\n",
            False,
            "the registry is stopped",
            16,
        ),
    ]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("up 5.3 s\n", "up 12 ms\n"),
        ("0.1.0, up 3 s\n", "0.2.0, up 1.5 min\n"),
        ("2026-11-29 18:01:02  app:1\n", "2025-01-01 00:00:00  app:1\n"),
        ("a    b\n", "a b\n"),
        ("one\ntwo\nthree\n", "one\n…\nthree\n"),
        ("one\nthree\n", "one\n…\nthree\n"),
        ("id …abcdefgh\n", "id …ABCDEFGH\n"),
        ("layer 0123456789ab 2.0 MB\n", "layer ba9876543210 2.0 MB\n"),
    ],
)
def test_what_varies_is_not_compared(output: str, expected: str) -> None:
    """Times, dates, ids, digests, spaces of tables, and lines that the page leaves out."""
    assert fits(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("2.0 MB\n", "2.1 MB\n"),
        ("11 of 12 parts\n", "12 of 12 parts\n"),
        ("one\ntwo\n", "one\n"),
        ("from 10.0.0.1\n", "from 10.0.0.2\n"),
        ("one\ntwo\n", "…\nthree\n"),
    ],
)
def test_everything_else_is_compared(output: str, expected: str) -> None:
    """Sizes, numbers of parts, addresses and lines."""
    assert not fits(output, expected)


def _commands(code: str) -> list[str]:
    """Return the commands of a block, each on one line."""
    lines = code.replace("\\\n", " ").splitlines()
    plain = [" ".join(re.sub(r"(^| )#.*", "", line).split()) for line in lines]
    return [line for line in plain if line]


def test_the_commands_of_the_readme_are_those_of_the_guide() -> None:
    """The guide's are run as written, so the README's are too."""
    text = (ROOT / "README.md").read_text()
    for title, page in (("On Kubernetes", "kubernetes.md"), ("On plain hosts", "host.md")):
        [block] = re.findall(rf"(?ms)^\*\*{title}\*\*.*?^```\n(.*?)^```", text)
        run = [
            command
            for one in examples(ROOT / "docs" / "guides" / page)
            for command in _commands(one.code)
        ]
        for command in _commands(block):
            beginning = command.removesuffix(" &")
            assert any(each.startswith(beginning) for each in run), command


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_shown_command_has_arguments_that_the_program_takes(page: Path) -> None:
    """A flag that is renamed or gone is found in every block of commands."""
    for block in re.findall(r"(?ms)^```(?:sh|shell|bash)?\n(.*?)^```", page.read_text()):
        for command in _commands(block):
            found = re.search(r"(?:^|/|\(| -- )spegel-py ([a-z][a-z-]+(?: [^)>&|;#]*)?)", command)
            if found is None or "…" in found[1]:
                continue
            given = shlex.split(found[1])
            options, unknown = _parser(given).parse_known_args(given)
            assert unknown == [], (command, options)
