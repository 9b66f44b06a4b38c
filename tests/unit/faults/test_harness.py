"""The loop over rows, the exit status and the report that chaos, crowd and drill share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.harness import Play, parser, recorded, run
from tests.faults.report import Outcome, as_json, page, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed(Outcome):
    seconds: float = 1.0

    def missed_bounds(self) -> list[str]:
        return ["too slow"] if self.seconds > 2.0 else []


@asynccontextmanager
async def start(outcomes: list[Timed]) -> AsyncIterator[Play[float, Timed]]:
    async def play(seconds: float) -> Timed:
        if seconds < 0:
            raise KeyboardInterrupt
        return Timed(row=f"{seconds} s", seconds=seconds)

    yield play


@pytest.mark.parametrize(
    ("rows", "status", "played"),
    [
        pytest.param([1.0, 2.0], 0, 2, id="all bounds kept"),
        pytest.param([3.0, 1.0], 1, 2, id="a bound missed"),
        pytest.param([1.0, -1.0, 1.0], 130, 1, id="interrupted"),
    ],
)
def test_a_run_reports_every_row_that_was_played(
    rows: list[float], status: int, played: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status tells missed bounds from an interruption; files and page hold all played rows."""
    options = parser("tests.none", "", "json", "markdown").parse_args(
        ["--json", str(tmp_path / "out.json")]
    )
    columns = (("row", lambda one: one.row), ("verdict", lambda one: one.verdict))
    views = {
        "json": as_json,
        "markdown": lambda facts, outcomes: page("None", facts, table(columns, outcomes)),
    }
    assert run(rows, start, views, options, seed=7) == status
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["conditions"]["seed"] == 7
    assert len(written["rows"]) == played
    printed = capsys.readouterr()
    assert printed.out.startswith("# None\n")
    assert printed.out.count(" s ") == printed.err.count(" s: ") == played


def test_a_row_that_cannot_be_played_has_its_error() -> None:
    """The error comes before the missed bounds, in one line of at most 200 characters."""
    errors: list[str] = []
    with recorded(errors):
        raise ValueError("no\nluck " + "x" * 300)
    assert len(errors[0]) == 200
    missed = Timed(row="a", error="no luck", seconds=3.0)
    assert missed.verdict == "MISSED: no luck; too slow"
    assert Timed(row="a").verdict == "ok"
