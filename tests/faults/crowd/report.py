"""The outcome of a row of crowd, its bounds, and the page that shows all outcomes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.pulls import Pull
from tests.faults.report import Columns, Outcome, page, table

DEADLINE = 120.0
"""Seconds after which a pull counts as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdPull(Pull):
    """The pull of one machine."""

    node: str
    is_excused: bool
    """Whether the fault broke the machine's own containerd or upstream, so its pull may fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdOutcome(Outcome):
    """The pulls of all machines under one fault."""

    pulls: tuple[CrowdPull, ...] = ()
    copies: float = 0.0
    """How often the registry sent the layer."""
    most: float = 0.0
    """The upper bound of `copies`."""
    left_open: int = 0
    """Open files, watches and participations that mirrors still have after the pulls."""

    def missed_bounds(self) -> list[str]:
        found = []
        for pull in self.pulls:
            if pull.seconds >= DEADLINE and not pull.is_excused:
                found.append(f"{pull.node} hung")
            elif not pull.succeeded and not pull.is_excused:
                found.append(f"{pull.node} failed: {pull.errors[-1][-200:]}")
            elif pull.succeeded and pull.content != "right":
                found.append(f"{pull.node} holds wrong bytes")
        if self.copies > self.most:
            found.append(f"the registry sent {self.copies:.2f} copies")
        if self.left_open:
            found.append(f"{self.left_open} files, watches or participations were left open")
        return found


def markdown(conditions: Mapping[str, Any], outcomes: Sequence[CrowdOutcome]) -> str:
    """Return the page."""
    return page("Crowds that are disturbed", conditions, table(_COLUMNS, outcomes))


def _slowest(pulls: Sequence[CrowdPull]) -> float:
    return max((pull.seconds for pull in pulls if not pull.is_excused), default=0.0)


_COLUMNS: Columns[CrowdOutcome] = (
    ("fault", lambda one: one.row),
    ("pulls", lambda one: str(len(one.pulls))),
    ("succeeded", lambda one: str(sum(pull.succeeded for pull in one.pulls))),
    ("right", lambda one: str(sum(pull.content == "right" for pull in one.pulls))),
    ("excused", lambda one: str(sum(pull.is_excused for pull in one.pulls))),
    ("slowest s", lambda one: f"{_slowest(one.pulls):.1f}"),
    ("copies from the registry", lambda one: f"{one.copies:.2f} ≤ {one.most:g}"),
    ("verdict", lambda one: one.verdict),
)
