"""ARCHITECTURE.md: its rooms and layers are the program's, and each hop of a walk is called."""

from __future__ import annotations

import itertools
import re
import tomllib

import pytest

from tests.docs.walks import (
    PAGE,
    ROOT,
    Hop,
    decisions,
    definition,
    is_called_by,
    is_reached,
    walks,
)

MAX_HOPS = 20
"""Hops of a walk that a reader can follow."""

MAX_LINES = 150
"""Lines of a page that is read before the code."""

WALKS = walks()


def test_the_page_is_short() -> None:
    """Details are on the pages of docs/."""
    assert len(PAGE.read_text().splitlines()) <= MAX_LINES


def test_every_room_is_named() -> None:
    """Each folder and module at the top of the package has a row."""
    package = ROOT / "spegel_py"
    rooms = {path.stem for path in package.iterdir() if not path.name.startswith("_")}
    rows = "".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE))
    assert rooms <= set(re.findall(r"`(\w+)/?`", rows))


def test_the_layers_are_the_linter_s() -> None:
    """The order on the page is the order of the contract."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (each["layers"] for each in contracts["contracts"] if each["type"] == "layers")
    order = " → ".join(re.sub(r"[()]", "", layer) for layer in layers if layer != "__main__")
    assert order in re.sub(r"\s+", " ", PAGE.read_text())


def test_there_are_three_walks() -> None:
    """Each is short enough to be read, and its list has no item that is not a hop."""
    assert len(WALKS) == 3
    assert all(2 <= len(hops) <= MAX_HOPS for hops in WALKS.values())


@pytest.mark.parametrize("hops", WALKS.values(), ids=WALKS.keys())
def test_every_hop_exists(hops: list[Hop]) -> None:
    """A function that was renamed or moved is renamed or moved in its walk too."""
    assert [str(hop) for hop in hops if definition(hop) is None] == []


@pytest.mark.parametrize("hops", WALKS.values(), ids=WALKS.keys())
def test_every_hop_is_called(hops: list[Hop]) -> None:
    """The hop above calls it, or the hop before leads to its task or node."""
    for number, (before, hop) in enumerate(itertools.pairwise(hops), start=2):
        below = list(itertools.takewhile(lambda each: each.caller is not None, hops[number:]))
        assert is_reached(hop, before, below), f"{hop.caller or before} -> {hop}"


def test_every_decision_is_made_where_the_table_says() -> None:
    """A reader finds the function there, and one of the callers calls it."""
    table = decisions()
    assert len(table) > 15
    named = [hop for deciders, callers in table for hop in (*deciders, *callers)]
    assert [str(hop) for hop in named if definition(hop) is None] == []
    calls = [(each, callers) for deciders, callers in table for each in deciders]
    assert [str(each) for each, callers in calls if not is_called_by(each, callers)] == []
