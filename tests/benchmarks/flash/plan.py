"""What a flash crowd is made of: how many nodes, which image, what lies between them; and who takes
part. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 1_000_000

ALONE, NO_MIRROR, OFF, SHARING, SPEGEL = (
    "one node, no mirror",
    "no mirror",
    "not sharing",
    "sharing",
    "Spegel",
)
"""Who is compared; `ALONE` is what one node needs that has the registry to itself."""
CANDIDATES = (ALONE, NO_MIRROR, OFF, SHARING, SPEGEL)


@dataclass(frozen=True, slots=True)
class Shape:
    """An image of equal layers."""

    layers: int
    megabytes: int

    @property
    def name(self) -> str:
        return f"{self.layers} × {self.megabytes} MB"


@dataclass(frozen=True, slots=True)
class Case:
    """One crowd: so many nodes pull the image, each `stagger` seconds after the one before; where
    it is `held`, the first of them has it, and only the others pull.

    `upstream` and `upload` are what the registry and each node can send, as tc says it; None is no
    limit. It is played so many `times`: where nothing is limited the machine decides how long it
    takes, and no two plays are alike.
    """

    nodes: int
    shape: Shape
    upstream: str | None = "100mbit"
    upload: str | None = None
    stagger: float = 0.0
    held: bool = False
    times: int = 1

    @property
    def name(self) -> str:
        starts = f", {self.stagger:g} s apart" if self.stagger else ""
        uploads = f", nodes send {self.upload}" if self.upload else ""
        held = ", one has it" if self.held else ""
        limit = self.upstream or "unlimited"
        return (
            f"{self.nodes} nodes{held}, {self.shape.name}, registry sends {limit}{uploads}{starts}"
        )


FIVE, ONE, TWENTY = Shape(5, 20), Shape(1, 100), Shape(20, 5)

FULL = (
    Case(2, FIVE),
    Case(5, FIVE),
    Case(8, FIVE),
    Case(8, ONE),
    Case(8, TWENTY),
    Case(8, FIVE, upload="200mbit"),
    Case(6, FIVE, stagger=1.5),
    Case(8, FIVE, upstream=None, times=15),
    Case(8, ONE, upload="200mbit", held=True),
)
QUICK = (Case(3, Shape(2, 10)),)

UPSTREAM_LIMIT = 1.03
"""Bytes of blobs that the registry sends at most while nodes share, in sizes of the image."""


def makespan_limit(case: Case) -> tuple[str, float] | None:
    """Return beside whom, and how many times as long as its, the makespan of a crowd that shares
    may be.
    """
    if case.stagger or case.upload or case.held or case.nodes < 8:
        return None
    if case.upstream is None:
        return NO_MIRROR, 1.2
    return ALONE, 1.4 if case.shape == TWENTY else 1.25
