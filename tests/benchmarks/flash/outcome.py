"""What a crowd's pulls gave, and what is wanted of them; pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.benchmarks.flash.plan import SHARING, UPSTREAM_LIMIT, Case, makespan_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One crowd of one candidate."""

    seconds: tuple[float, ...]
    """What each node's pull took, from its own start."""
    makespan: float
    """Seconds from the first start to the last end."""
    image: int
    """Bytes of the image's blobs: layers and config."""
    upstream: int
    """Bytes of blobs that the registry sent."""
    manifests: Mapping[str, int]
    """How many GETs of each manifest, by its path, the registry answered."""
    cpu: float
    """CPU seconds of all mirrors together."""
    failed: tuple[str, ...] = ()
    """Why pulls failed."""

    @property
    def copies(self) -> float:
        """How many times the registry sent the image's blobs."""
        return self.upstream / self.image

    @property
    def spread(self) -> tuple[float, float]:
        """The median and the longest pull."""
        return statistics.median(self.seconds), max(self.seconds)


Round = Mapping[str, Outcome]
"""The candidates' outcomes of one case."""


def middle(plays: Sequence[Outcome]) -> Outcome:
    """Return the play with the middle makespan, the failures of all, and the most that the registry
    sent in any.
    """
    found = sorted(plays, key=lambda play: play.makespan)[len(plays) // 2]
    return replace(
        found,
        failed=tuple(error for play in plays for error in play.failed),
        upstream=max(play.upstream for play in plays),
        manifests=max((play.manifests for play in plays), key=lambda each: sum(each.values())),
    )


def ratio(case: Case, outcomes: Round) -> float | None:
    """Return the makespan of sharing in that of whom it is held against; None where there is nobody
    or no bound.
    """
    limit = makespan_limit(case)
    if limit is None or SHARING not in outcomes or limit[0] not in outcomes:
        return None
    return outcomes[SHARING].makespan / outcomes[limit[0]].makespan


def missed(case: Case, outcomes: Round) -> list[str]:
    """Return what is wanted of sharing, or of every pull, and was not so."""
    found = [f"{name}: {error}" for name, each in outcomes.items() for error in each.failed]
    if (sharing := outcomes.get(SHARING)) is None:
        return found
    if case.upstream and sharing.copies > UPSTREAM_LIMIT:
        found.append(f"the registry sent {sharing.copies:.2f} times the image")
    if more := [path for path, count in sharing.manifests.items() if count != 1]:
        found.append(f"{len(more)} manifests were fetched more than once")
    limit, measured = makespan_limit(case), ratio(case, outcomes)
    if limit and measured and not measured <= limit[1]:
        found.append(f"makespan {measured:.2f} times that of {limit[0]}")
    return found
