"""The pages: generated ones are up to date, and links, commands and names exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from spegel_py.cli import COMMANDS
from spegel_py.config import REGISTRY
from tests.deploy.test_monitoring import EXPORTED, stem
from tests.docs import bounds, commands, configuration, events, metrics

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "deploy").rglob("*.md"))
HISTORY = ROOT / "CHANGELOG.md"
"""The page that may name things that are gone."""
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_page_of_settings_is_up_to_date() -> None:
    """`make docs` was run after a setting was changed."""
    assert configuration.PAGE.read_text() == configuration.render()


def test_the_page_of_bounds_is_up_to_date() -> None:
    """`make docs` was run after a bound was changed. All bounds fit into the chart's limit."""
    assert bounds.PAGE.read_text() == bounds.render()
    assert sum(megabytes for _, megabytes in bounds.memory()) < bounds.limit()


@pytest.mark.parametrize("made", [commands, metrics, events], ids=lambda made: made.__name__)
def test_a_generated_page_is_up_to_date(made: ModuleType) -> None:
    """`make docs` was run after a command, a metric or a log event was changed."""
    assert made.PAGE.read_text() == made.render()


def test_defaults_on_the_page_are_the_program_s() -> None:
    """A default is written so that it can be given as the flag."""
    for setting in REGISTRY:
        shown = configuration.shown(setting)
        if shown != "none":
            assert setting.parse(shown.strip("`")) == setting.default, setting.flag


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made on code hosting sites."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for link in _LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_a_page_are_the_program_s(page: Path) -> None:
    """`spegel-py NAME` names a command that there is."""
    commands = r"(?:^|/|\(| -- )spegel-py ([a-z][a-z-]+)(?![\w./-])"
    named = {
        name
        for code in _code(page.read_text())
        for name in re.findall(commands, code, re.MULTILINE)
    }
    assert named <= {command.name for command in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_on_a_page_are_exported(page: Path) -> None:
    """A metric that is named can be asked for."""
    named = set(re.findall(r"\b(spegel_[a-z_]+)", "\n".join(_code(page.read_text())))) - {
        "spegel_py"
    }
    assert named <= EXPORTED.keys() | {stem(name) for name in EXPORTED}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_events_on_a_page_are_logged(page: Path) -> None:
    """A log line that is shown is one of the program's."""
    shown = set(re.findall(r'"event": "([^"]+)"', page.read_text()))
    assert shown <= events.events().keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_on_a_page_exist(page: Path) -> None:
    """A test, a folder of tests or a script that is named is there, and so is a module of ours."""
    named = {
        found
        for code in _code(page.read_text())
        for found in re.findall(
            r"(?<![\w/.-])((?:tests|spegel_py|deploy|unit|contract|integration)/[\w./-]*\w)", code
        )
    }
    for path in named if page != HISTORY else ():
        assert (ROOT / path).exists() or (ROOT / "tests" / path).exists(), path


def _code(text: str) -> list[str]:
    """Return what stands in a page as code."""
    return [
        *re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL),
        *re.findall(r"`([^`\n]+)`", text),
    ]


def test_every_page_is_found_from_the_main_page() -> None:
    """README.md links the index of the pages, and the index links every page."""
    index = ROOT / "docs" / "README.md"
    assert "docs/README.md" in _LINK.findall((ROOT / "README.md").read_text())
    linked = {
        (index.parent / link.partition("#")[0]).resolve()
        for link in _LINK.findall(index.read_text())
        if "://" not in link
    }
    assert set((ROOT / "docs").rglob("*.md")) - {index} <= linked


def test_classes_of_the_glossary_exist() -> None:
    """A class that is renamed is renamed in the glossary too."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    rows = re.findall(r"^\| .*? \| .* \| (.*) \| .*\|$", text, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    code = "".join(path.read_text() for path in (ROOT / "spegel_py").rglob("*.py"))
    assert len(named) > 40
    assert named <= set(re.findall(r"^class (\w+)", code, re.MULTILINE))
