"""How the outcomes are shown: a table for each crowd, and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.flash.outcome import Outcome, Round, missed, ratio
from tests.benchmarks.flash.plan import MEGABYTE, Case
from tests.benchmarks.report import aligned, flat

_HEAD = (
    "crowd",
    "mirror",
    "from the registry",
    "copies",
    "manifest GETs",
    "all done s",
    "median s",
    "longest s",
    "CPU s",
)


def markdown(conditions: Mapping[str, Any], rounds: Sequence[tuple[Case, Round]]) -> str:
    """Return the page: conditions, the table, and what was missed."""
    rows = [
        _row(case, name, outcome) for case, outcomes in rounds for name, outcome in outcomes.items()
    ]
    lines = [f"- {name}: {flat(value)}" for name, value in conditions.items()]
    return "\n".join(
        ["# Flash crowds", "", *lines, "", aligned([_HEAD, *rows]), "", *verdicts(rounds), ""]
    )


def verdicts(rounds: Sequence[tuple[Case, Round]]) -> list[str]:
    """Return a line for each crowd: how long sharing took beside what it is held against, and what
    was missed.
    """
    lines = []
    for case, outcomes in rounds:
        measured = ratio(case, outcomes)
        times = "" if measured is None else f"sharing took {measured:.2f} times as long; "
        lines.append(f"- {case.name}: {times}{'; '.join(missed(case, outcomes)) or 'ok'}")
    return lines


def as_json(conditions: Mapping[str, Any], rounds: Sequence[tuple[Case, Round]]) -> str:
    """Return everything as one JSON object."""
    found = [
        {
            "case": asdict(case) | {"name": case.name},
            "candidates": {name: asdict(outcome) for name, outcome in outcomes.items()},
            "makespan_ratio": ratio(case, outcomes),
            "missed": missed(case, outcomes),
        }
        for case, outcomes in rounds
    ]
    return json.dumps({"conditions": conditions, "rounds": found}, indent=1) + "\n"


def _row(case: Case, name: str, outcome: Outcome) -> tuple[str, ...]:
    median, longest = outcome.spread
    return (
        case.name,
        name,
        f"{outcome.upstream / MEGABYTE:.0f} MB",
        f"{outcome.copies:.2f}",
        str(sum(outcome.manifests.values())),
        f"{outcome.makespan:.1f}",
        f"{median:.1f}",
        f"{longest:.1f}",
        f"{outcome.cpu:.1f}",
    )
