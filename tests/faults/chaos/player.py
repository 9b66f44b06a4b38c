"""Plays rows of chaos, with undisturbed pulls in between as the baseline."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.faults.chaos.cluster import ChaosCluster
from tests.faults.chaos.pulls import ChaosPull
from tests.faults.chaos.report import ALLOWANCE, ChaosOutcome
from tests.faults.chaos.round import FaultUnsupported, play_round
from tests.faults.chaos.rows import Row
from tests.faults.harness import recorded
from tests.faults.pulls import DEADLINE
from tests.support.lab import Node

BASELINE_AGE = 120.0
"""Seconds after which undisturbed pulls are timed again: the machine may be busier by then."""


class ChaosPlayer:
    """Plays each row `rounds` times; `logs` is the folder for logs of rounds that went wrong."""

    def __init__(
        self, *, cluster: ChaosCluster, random: random.Random, rounds: int, logs: Path | None
    ) -> None:
        self._cluster = cluster
        self._random = random
        self._rounds = rounds
        self._logs = logs
        self._baseline: dict[int, list[ChaosPull]] = {}
        self._timed: dict[int, float] = {}

    async def play(self, row: Row, at_once: int) -> ChaosOutcome:
        """Play a row with this many pullers; a failure to play it is recorded in its outcome."""
        pulls: list[ChaosPull] = []
        undisturbed: list[float] = []
        errors: list[str] = []
        left_out = ""
        with recorded(errors):
            try:
                for _ in range(self._rounds):
                    seconds = await self._undisturbed(at_once)
                    pulls += await self._round(row, at_once, undisturbed=seconds)
                    undisturbed += [seconds] * at_once
            except FaultUnsupported as reason:
                left_out = str(reason)
        return ChaosOutcome(
            row=row.name,
            at_once=at_once,
            pulls=tuple(pulls),
            undisturbed=tuple(undisturbed),
            expected=row.expected,
            why=row.why,
            error="".join(errors),
            left_out=left_out,
        )

    def undisturbed(self) -> list[ChaosOutcome]:
        """Return the outcomes of the pulls without a fault."""
        return [
            ChaosOutcome(
                row="nothing",
                at_once=at_once,
                pulls=tuple(pulls),
                undisturbed=tuple(pull.seconds for pull in pulls),
            )
            for at_once, pulls in sorted(self._baseline.items())
        ]

    async def _undisturbed(self, at_once: int) -> float:
        """Return the seconds of the slowest of this many simultaneous pulls without a fault."""
        pulls = self._baseline.setdefault(at_once, [])
        if not pulls or time.monotonic() - self._timed[at_once] > BASELINE_AGE:
            pulls += await self._round(Row(name="nothing"), at_once)
            self._timed[at_once] = time.monotonic()
        return max(pull.seconds for pull in pulls[-at_once:])

    async def _round(
        self, row: Row, at_once: int, *, undisturbed: float = DEADLINE
    ) -> list[ChaosPull]:
        pullers, share = self._cluster.pullers[:at_once], self._random.uniform(0.1, 0.6)
        await self._cluster.refresh(pullers, row.flags)
        starts = [len(_log(node)) for node in pullers]
        pulls = await play_round(
            self._cluster,
            pullers,
            before=row.before,
            during=row.during,
            share=share,
            tries=row.tries,
            reasons=row.misses,
        )
        for node, pull, start in zip(pullers, pulls, starts, strict=True):
            is_late = pull.seconds > undisturbed + ALLOWANCE
            if self._logs and (pull.errors or pull.complaints or is_late):
                self._logs.mkdir(parents=True, exist_ok=True)
                file = self._logs / f"{row.name}, {at_once} at once, {node.address}.log"
                file.write_text(
                    f"{pull}\nfault after {share:.0%} of the bytes\n{_log(node)[start:]}"
                )
        return pulls


def _log(node: Node) -> str:
    return node.spegel.output if node.spegel else ""
