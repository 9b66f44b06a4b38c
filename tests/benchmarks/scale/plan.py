"""What the routers of a run hold, and how their answers are judged. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

COMMON = 0.5
"""Share of a router's keys that all routers hold, like the layers of common base images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a run is.

    Args:
        routers: all routers.
        members: routers that are connected to all others; the others are connected to these only.
            With as many members as routers, the mesh is full.
        per_process: routers that share a process. Each member has one of its own, unless the mesh
            is full.
        keys: keys that each router announces.
        distinct: different keys of all routers together.
        asked: keys that each member looks up.
        calm: seconds for which the routers are left alone, to read their idle CPU time.
        interval: seconds between two announcements.
    """

    routers: int = 60
    members: int = 8
    per_process: int = 20
    keys: int = 1_000
    distinct: int = 5_000
    asked: int = 200
    calm: float = 15.0
    interval: float = 4.0

    def __post_init__(self) -> None:
        if not 2 <= self.members <= self.routers:
            raise ValueError(f"{self.members} members of {self.routers} routers")
        if self.keys > self.distinct:
            raise ValueError(f"{self.keys} keys each of {self.distinct} different ones")

    @property
    def is_full_mesh(self) -> bool:
        return self.members == self.routers

    @property
    def text(self) -> str:
        """The size in words."""
        mesh = "a full mesh" if self.is_full_mesh else f"{self.members} connected to all"
        keys = f"{self.keys:,} keys each, {self.distinct:,} different"
        return f"{self.routers:,} routers, {mesh}; {keys}"

    def groups(self) -> list[range]:
        """Return the routers of each process; the members come first."""
        alone = 0 if self.is_full_mesh else self.members
        rest = range(alone, self.routers, self.per_process)
        return [
            *(range(number, number + 1) for number in range(alone)),
            *(range(start, min(start + self.per_process, self.routers)) for start in rest),
        ]


def keys_of(router: int, size: Size) -> list[int]:
    """Return the numbers of a router's keys: those that all hold, and its own choice of others."""
    common = int(size.keys * COMMON)
    return [
        *range(common),
        *Random(router).sample(range(common, size.distinct), size.keys - common),
    ]


def key_name(number: int) -> str:
    """Return the digest that stands for a key."""
    return f"sha256:{number:064x}"


def holders(size: Size, routers: Iterable[int]) -> dict[int, set[int]]:
    """Return the routers that hold each key."""
    found: dict[int, set[int]] = {}
    for router in routers:
        for number in keys_of(router, size):
            found.setdefault(number, set()).add(router)
    return found


@dataclass(slots=True)
class Answers:
    """Lookups, judged against the routers that hold the keys and can be reached."""

    lookups: int = 0
    missing: int = 0
    """Lookups that named nobody, though another reachable router holds the key."""
    wrong: int = 0
    """Routers named that do not hold the key, or cannot be reached."""
    seconds: list[float] = field(default_factory=list)

    def judge(
        self,
        found: Collection[int],
        holding: Collection[int],
        *,
        restarting: int | None = None,
        seconds: float,
    ) -> None:
        """Count one lookup.

        Args:
            found: the routers that it named.
            holding: the other reachable routers that hold the key.
            restarting: a router that may be named, and need not be.
        """
        self.lookups += 1
        self.missing += not found and any(router != restarting for router in holding)
        self.wrong += sum(router not in holding for router in found)
        self.seconds.append(seconds)

    def add(self, other: Answers) -> None:
        """Count the lookups of another round too."""
        self.lookups += other.lookups
        self.missing += other.missing
        self.wrong += other.wrong


def expected_of(
    key: int, asking: int, held: Mapping[int, set[int]], reachable: Collection[int]
) -> set[int]:
    """Return the routers that a lookup may name."""
    return {router for router in held.get(key, ()) if router in reachable and router != asking}


def sample_of(router: int, size: Size, known: Sequence[int]) -> list[int]:
    """Return the keys that a router looks up, out of those that anybody holds."""
    return Random(f"lookups {router}").sample(known, min(size.asked, len(known)))
