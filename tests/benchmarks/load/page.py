"""How the runs are shown: a page with the figures and the node over time, and JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks import report
from tests.benchmarks.load.content import IMAGES, LARGE, LAYERS, SMALL
from tests.benchmarks.load.plan import Look, Plan, over_time
from tests.benchmarks.report import Outcome


@dataclass(frozen=True, slots=True)
class Run:
    """One server under load."""

    outcome: Outcome
    looks: tuple[Look, ...]
    examples: tuple[str, ...] = ()
    """The first failures in words."""


def conditions(plan: Plan, *, relayed: bool) -> dict[str, Any]:
    """Return the load in words."""
    source = (
        "a layout folder"
        if not relayed
        else "a peer, which has everything; the node under load has nothing"
    )
    return {
        "served from": source,
        "connections": f"{plan.connections:,} from 50 addresses, opened over {plan.ramp:.0f} s",
        "requests": f"{plan.rate:.0f} a second in all, at set times, for {plan.seconds:.0f} s",
        "pullers": (
            f"{plan.pullers} kept connections, {plan.pulls:.0f} requests a second: "
            "manifests and small layers"
        ),
        "slow readers": (
            f"{plan.slow}, each {plan.slow_rate // 1024} KiB/s of a layer of {LARGE >> 20} MiB"
        ),
        "idle": f"{plan.idle} kept connections, a manifest every {plan.idle_pause:.0f} s",
        "visitors": (
            f"{plan.visitors} connections of one request, open for {plan.visit:.0f} s on average"
        ),
        "content": (
            f"{IMAGES} images of {LAYERS} layers of {SMALL >> 10} KiB; every byte of "
            "every answer is checked"
        ),
        "settings": "the defaults",
    }


def markdown(given: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return the page: the conditions, the figures, and each node over time."""
    outcomes = [run.outcome for run in runs]
    lines = [
        "# Load",
        "",
        *(f"- {name}: {report.flat(value)}" for name, value in given.items()),
        "",
    ]
    lines += [report.table(outcomes), "", *report.noise(outcomes), ""]
    for run in runs:
        lines += [
            f"{run.outcome.benchmark} over time:",
            "",
            report.aligned(over_time(list(run.looks))),
            "",
        ]
        if run.examples:
            lines += [
                "Its first failures:",
                "",
                *(f"- `{example}`" for example in run.examples),
                "",
            ]
    return "\n".join(lines)


def as_json(given: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Return everything as one JSON object, with each look at each node."""
    found = json.loads(report.as_json(given, [run.outcome for run in runs]))
    for entry, run in zip(found["benchmarks"], runs, strict=True):
        entry |= {"over_time": [asdict(look) for look in run.looks], "examples": list(run.examples)}
    return json.dumps(found, indent=1) + "\n"
