"""Plays rows on the field, with undisturbed pulls in between to compare them with."""

from __future__ import annotations

import random
import time
import traceback
from pathlib import Path

from tests.faults.chaos.field import Field
from tests.faults.chaos.pulls import DEADLINE, Pull
from tests.faults.chaos.report import ALLOWANCE, Outcome
from tests.faults.chaos.rows import Row
from tests.faults.chaos.scene import NotPossible, play
from tests.lab import Node

STALE = 120.0
"""Seconds after which an undisturbed pull is timed anew: the machine may be busier than it was."""


class Player:
    """Plays one row after the other; `logs` is where the logs of rounds that went wrong are kept."""

    def __init__(self, *, field: Field, random: random.Random, logs: Path | None) -> None:
        self._field = field
        self._random = random
        self._logs = logs
        self._calm: dict[int, list[Pull]] = {}
        self._timed: dict[int, float] = {}

    async def play(self, row: Row, at_once: int, *, rounds: int) -> Outcome:
        """Play a row some times; what goes wrong with it is in its outcome."""
        pulls: list[Pull] = []
        undisturbed: list[float] = []
        error = left_out = ""
        for _ in range(rounds):
            try:
                calm = await self._undisturbed(at_once)
                found = await self._round(row, at_once, calm=calm)
            except NotPossible as reason:
                left_out = str(reason)
                break
            except (
                Exception
            ) as failure:  # one that cannot be played must not take the others with it
                traceback.print_exc()
                error = " ".join(f"{type(failure).__name__}: {failure}".split())[-200:]
                break
            pulls += found
            undisturbed += [calm] * at_once
        return Outcome(
            row=row.name,
            at_once=at_once,
            pulls=tuple(pulls),
            undisturbed=tuple(undisturbed),
            expected=row.expected,
            why=row.why,
            error=error,
            left_out=left_out,
        )

    def undisturbed(self) -> list[Outcome]:
        """Return the pulls without a fault."""
        return [
            Outcome(
                row="nothing",
                at_once=at_once,
                pulls=tuple(pulls),
                undisturbed=tuple(pull.seconds for pull in pulls),
            )
            for at_once, pulls in sorted(self._calm.items())
        ]

    async def _undisturbed(self, at_once: int) -> float:
        """Return the seconds of the slowest of so many undisturbed pulls at once, not long ago."""
        pulls = self._calm.setdefault(at_once, [])
        if not pulls or time.monotonic() - self._timed[at_once] > STALE:
            pulls += await self._round(Row(name="nothing"), at_once)
            self._timed[at_once] = time.monotonic()
        return max(pull.seconds for pull in pulls[-at_once:])

    async def _round(self, row: Row, at_once: int, *, calm: float = DEADLINE) -> list[Pull]:
        pullers, share = self._field.pullers[:at_once], self._random.uniform(0.1, 0.6)
        await self._field.refresh(pullers, row.flags)
        starts = [len(_log(node)) for node in pullers]
        pulls = await play(
            self._field,
            pullers,
            before=row.before,
            during=row.during,
            share=share,
            tries=row.tries,
            reasons=row.misses,
        )
        for node, pull, start in zip(pullers, pulls, starts, strict=True):
            if self._logs and (pull.errors or pull.complaints or pull.seconds > calm + ALLOWANCE):
                self._logs.mkdir(parents=True, exist_ok=True)
                file = self._logs / f"{row.name}, {at_once} at once, {node.address}.log"
                file.write_text(
                    f"{pull}\nfault after {share:.0%} of the bytes\n{_log(node)[start:]}"
                )
        return pulls


def _log(node: Node) -> str:
    return node.spegel.output if node.spegel else ""
