"""How much load there is, for how long, and which bounds hold. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.benchmarks.figures import Figure

P99 = 50.0
"""Milliseconds within which 99 of 100 manifests have arrived whole."""

ABOVE_IDLE = 60.0
"""MB of RSS that a node may have above its RSS before the first client."""

GROWTH_MB, GROWTH_DESCRIPTORS = 5.0, 40.0
"""RSS in MB, and descriptors, that a node may have gained in the last window over the second one.
Of 2,000 connections about 40 are between two lives at any time.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The clients of one run, which lasts `seconds`."""

    seconds: float
    pullers: int = 500
    """Connections that are kept, on which one small layer or manifest is pulled after the other."""
    slow: int = 100
    """Connections that read a large layer slowly."""
    idle: int = 300
    """Connections that ask for a manifest just often enough to be kept."""
    visitors: int = 1100
    """Connections that ask once, stay for a while, and are closed and opened anew."""
    pulls: float = 140.0
    """Requests per second of all pullers together."""
    slow_rate: int = 128 * 1024
    """Bytes per second of each slow reader."""
    idle_pause: float = 60.0
    """Seconds between two requests on an idle connection; the node closes it after 75 s."""
    visit: float = 20.0
    """Seconds for which a visitor's connection is open, on average."""

    @property
    def connections(self) -> int:
        return self.pullers + self.slow + self.idle + self.visitors

    @property
    def rate(self) -> float:
        """Requests per second in all."""
        return self.pulls + self.idle / self.idle_pause + self.visitors / self.visit

    @property
    def window(self) -> float:
        """Seconds whose mean is compared: a minute, or a quarter of a shorter run."""
        return min(60.0, self.seconds / 4)

    @property
    def ramp(self) -> float:
        """Seconds over which the connections are opened."""
        return self.window / 2

    @property
    def interval(self) -> float:
        """Seconds between two looks at the node."""
        return self.window / 6

    def looks(self) -> list[float]:
        """Return when to look at the node, in seconds: the last time before the clients leave."""
        return [number * self.interval for number in range(round(self.seconds / self.interval))]


@dataclass(frozen=True, slots=True)
class Look:
    """The node at one moment.

    `cpu` is its CPU time since its start, and `waited` the time that its event loop was ready to
    run and had no core, both in seconds.
    """

    seconds: float
    rss: float
    """MB."""
    descriptors: int
    cpu: float
    waited: float = 0.0
    buffers: float = 0.0
    """MB that the kernel keeps in TCP buffers, for all processes of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The generator's account of one run."""

    requests: int
    megabytes: float
    manifests: dict[str, float]
    """Percentiles in milliseconds, from the request to the last byte of the body."""
    layers: dict[str, float]
    samples: dict[str, int]
    """How many of both there are."""
    late: dict[str, float]
    """Milliseconds that a request was sent after its time, because the generator was busy."""
    open: float
    """Connections that were open on average, once all had been opened."""
    cpu: float
    """CPU seconds of the generator."""
    wrong: int
    """Bodies with other bytes, or another length, than were asked for."""
    broken: int
    """Connections that were refused or ended early, and answers that did not come within 30 s."""
    refused: int
    """Answers with another status than 200."""
    examples: list[str]


def figures(
    plan: Plan, idle: Look, looks: list[Look], answers: Answers, *, is_judged: bool
) -> list[Figure]:
    """Return the figures of one run.

    Args:
        plan: The load.
        idle: The node before the first client.
        looks: The node over time; seconds count from the first client.
        answers: What the clients got.
        is_judged: Whether the bounds are for this program.
    """
    second = [look for look in looks if plan.window <= look.seconds < 2 * plan.window]
    last = [look for look in looks if look.seconds >= plan.seconds - plan.window]
    span = f"last {plan.window:.0f} s less those from {plan.window:.0f} s on"
    took = looks[-1].seconds
    found = [
        Figure(
            name="answers",
            conditions=f"{answers.open:.0f} connections open, {answers.megabytes:,.0f} MB",
            unit="",
            values={"wrong": answers.wrong, "broken": answers.broken, "refused": answers.refused},
            targets={"wrong": 0, "broken": 0, "refused": 0},
            samples=answers.requests,
        ),
        Figure(
            name="connections missing",
            conditions=f"of {plan.connections:,}, mean",
            unit="%",
            values={"mean": max(0.0, 100 * (1 - answers.open / plan.connections))},
            targets={"mean": 5.0},
        ),
        Figure(
            name="manifest, whole",
            conditions=f"from {plan.window:.0f} s on, {plan.rate:.0f} requests a second in all",
            unit="ms",
            values=answers.manifests,
            targets={"p99": P99},
            samples=answers.samples["manifests"],
        ),
        Figure(
            name="small layer, whole",
            conditions="the same",
            unit="ms",
            values=answers.layers,
            samples=answers.samples["layers"],
        ),
        Figure(name="generator late", conditions="the same", unit="ms", values=answers.late),
        Figure(
            name="RSS",
            conditions="of the node",
            unit="MB",
            values={
                "idle": idle.rss,
                "most": max(look.rss for look in looks),
                "above idle": max(look.rss for look in looks) - idle.rss,
            },
            targets={"above idle": ABOVE_IDLE},
            samples=len(looks),
        ),
        Figure(
            name="RSS gained",
            conditions=span,
            unit="MB",
            values={
                "gained": _mean([look.rss for look in last]) - _mean([look.rss for look in second])
            },
            targets={"gained": GROWTH_MB},
        ),
        Figure(
            name="descriptors gained",
            conditions=span,
            unit="",
            values={
                "idle": idle.descriptors,
                "most": max(look.descriptors for look in looks),
                "gained": _mean([look.descriptors for look in last])
                - _mean([look.descriptors for look in second]),
            },
            targets={"gained": GROWTH_DESCRIPTORS},
        ),
        Figure(
            name="TCP buffers",
            conditions="of all processes of the machine, in the kernel",
            unit="MB",
            values={"idle": idle.buffers, "most": max(look.buffers for look in looks)},
            samples=len(looks),
        ),
        Figure(
            name="CPU",
            conditions="mean over the run",
            unit="cores",
            values={
                "node": (looks[-1].cpu - idle.cpu) / took,
                "generator": answers.cpu / plan.seconds,
            },
        ),
        Figure(
            name="wait for a core",
            conditions="share of the run that the node's event loop was ready and others ran",
            unit="%",
            values={"mean": 100 * (looks[-1].waited - idle.waited) / took},
        ),
    ]
    if is_judged:
        return found
    return [
        Figure(
            name=each.name,
            conditions=each.conditions,
            unit=each.unit,
            values=each.values,
            samples=each.samples,
        )
        for each in found
    ]


def parse_buffers(sockstat: str) -> float:
    """Return the MB of TCP buffers that the text of /proc/net/sockstat tells in pages."""
    (fields,) = [line.split() for line in sockstat.splitlines() if line.startswith("TCP:")]
    return int(fields[fields.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def over_time(looks: list[Look]) -> list[tuple[str, ...]]:
    """Return the rows of the table over time, the head first: about one row a minute, and the
    last.
    """
    rows: list[tuple[str, ...]] = [
        ("second", "RSS, MB", "descriptors", "TCP buffers, MB", "CPU, cores")
    ]
    shown = looks[:: max(1, len(looks) // 12)]
    if shown[-1] is not looks[-1]:
        shown.append(looks[-1])
    before = None
    for look in shown:
        cpu = (look.cpu - before.cpu) / (look.seconds - before.seconds) if before else None
        rows.append(
            (
                f"{look.seconds:.0f}",
                f"{look.rss:.1f}",
                str(look.descriptors),
                f"{look.buffers:.0f}",
                "" if cpu is None else f"{cpu:.2f}",
            )
        )
        before = look
    return rows


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values) if values else float("nan")
