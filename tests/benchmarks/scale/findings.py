"""The figures of the rounds, and all lookups that were judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from tests.benchmarks.figures import Figure
from tests.benchmarks.scale.fleet import Used
from tests.benchmarks.scale.plan import Answers

NO_FAULTS = {"missing": 0.0, "wrong": 0.0}


class Findings:
    """Collects figures that share their conditions."""

    def __init__(self, conditions: str) -> None:
        self._conditions = conditions
        self.figures: list[Figure] = []
        self.answers = Answers()

    def add(
        self,
        name: str,
        unit: str,
        values: Mapping[str, float],
        *,
        targets: Mapping[str, float] | None = None,
        samples: int = 1,
    ) -> None:
        """Add one figure."""
        self.figures.append(
            Figure(
                name=name,
                conditions=self._conditions,
                unit=unit,
                values=values,
                targets=targets or {},
                samples=samples,
            )
        )

    def judge(self, name: str, answers: Answers) -> None:
        """Count answers, and add a figure of them if any is not right."""
        self.answers.add(answers)
        if answers.missing or answers.wrong:
            self.add(
                f"answers: {name}",
                "",
                faults(answers),
                targets=NO_FAULTS,
                samples=answers.lookups,
            )

    def weigh(self, name: str, state: Sequence[Used]) -> None:
        """Add the memory, threads and descriptors of some processes."""
        routers = sum(len(each.peers) for each in state)
        self.add(
            f"memory, {name}",
            "MB",
            {
                "RSS of a router": sum(each.rss for each in state) / routers,
                "PSS of a router": sum(each.pss for each in state) / routers,
            },
            samples=len(state),
        )
        self.add(
            f"threads and descriptors, {name}",
            "",
            {
                "threads of a process": fmean(each.threads for each in state),
                "descriptors beyond connections": fmean(
                    each.descriptors - sum(each.peers) for each in state
                ),
            },
            samples=len(state),
        )


def faults(answers: Answers) -> dict[str, float]:
    """Return how many lookups named nobody, and how many routers were named wrongly."""
    return {"missing": float(answers.missing), "wrong": float(answers.wrong)}
