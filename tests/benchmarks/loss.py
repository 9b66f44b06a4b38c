"""How long a provider that died, or stands still, is still offered to those who look for what it
had.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence

from tests.benchmarks.figures import Figure, median_and_max
from tests.benchmarks.routers import RouterProcess, cluster, until

OBSERVERS = 2
INTERVAL = 4.0
"""Seconds between announcements, as a node has it by default: a fault may fall anywhere between two
of them.
"""


async def measure(*, is_quick: bool) -> list[Figure]:
    """Stop providers and let them go on, then kill each of them; two other nodes look all the
    time.
    """
    victims = 2 if is_quick else 6
    rng = random.Random(4)
    async with cluster(OBSERVERS + victims, mesh_limit=128, interval=INTERVAL) as nodes:
        observers, providers = nodes[:OBSERVERS], nodes[OBSERVERS:]
        for provider in providers:
            await provider.do(do="advertise", keys=[_key(provider)])
        await _wait(observers, providers)
        stopped, back = [], []
        for provider in providers:
            await asyncio.sleep(rng.uniform(0, INTERVAL))
            stopped.append(await _stop(observers, provider))
            back.append(await _go_on(observers, provider))
        killed = []
        for provider in providers:
            await asyncio.sleep(rng.uniform(0, INTERVAL))
            killed.append(await _kill(observers, provider))
    return summarise(killed, stopped, back)


def summarise(
    killed: Sequence[float], stopped: Sequence[float], back: Sequence[float]
) -> list[Figure]:
    """Return the figures."""
    conditions = f"{OBSERVERS + len(killed)} nodes, until {OBSERVERS} observers offer it no more"
    return [
        _figure("after kill -9", conditions, killed, 2.0),
        _figure("after SIGSTOP", conditions, stopped, 10.0),
        _figure("after SIGCONT", f"until {OBSERVERS} observers offer it again", back, None),
    ]


def _figure(name: str, conditions: str, seconds: Sequence[float], target: float | None) -> Figure:
    return Figure(
        name=name,
        conditions=conditions,
        unit="s",
        values=median_and_max(seconds),
        targets={} if target is None else {"max": target},
        samples=len(seconds),
    )


async def _stop(observers: Sequence[RouterProcess], provider: RouterProcess) -> float:
    start = time.monotonic()
    provider.signal(
        signal.SIGSTOP
    )  # a cluster kills its processes at the end, and so a stopped one too
    await until(lambda: _offered(observers, provider, by_all=False), timeout=60)
    return time.monotonic() - start


async def _go_on(observers: Sequence[RouterProcess], provider: RouterProcess) -> float:
    start = time.monotonic()
    provider.signal(signal.SIGCONT)
    await until(lambda: _offered(observers, provider, by_all=True), timeout=60)
    return time.monotonic() - start


async def _kill(observers: Sequence[RouterProcess], provider: RouterProcess) -> float:
    start = time.monotonic()
    provider.signal(signal.SIGKILL)
    await until(lambda: _offered(observers, provider, by_all=False), timeout=60)
    return time.monotonic() - start


async def _wait(observers: Sequence[RouterProcess], providers: Sequence[RouterProcess]) -> None:
    for provider in providers:
        await until(
            lambda provider=provider: _offered(observers, provider, by_all=True), timeout=30
        )


async def _offered(
    observers: Sequence[RouterProcess], provider: RouterProcess, *, by_all: bool
) -> bool:
    """Say whether the provider is offered by all observers; or, if not `by_all`, by none of
    them.
    """
    answers = [await observer.do(do="lookup", keys=[_key(provider)]) for observer in observers]
    offers = [provider.port in ports for ((ports, _),) in answers]
    return all(offers) if by_all else not any(offers)


def _key(provider: RouterProcess) -> str:
    return f"sha256:{provider.port:064x}"
