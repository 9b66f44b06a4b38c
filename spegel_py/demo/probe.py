"""A node's probes and metrics, asked over HTTP as an orchestrator asks."""

from __future__ import annotations

import aiohttp


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    """Return True if a probe is answered with 200."""
    return await _get(session, url) is not None


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Return a node's `spegel_…` metrics without labels; none while the node does not answer."""
    return parse(await _get(session, url) or "")


async def served(session: aiohttp.ClientSession, url: str) -> float:
    """Return the body bytes that a node has sent, by its metric; 0 while it does not answer."""
    return total(await _get(session, url) or "", "spegel_served_bytes_total")


def total(text: str, name: str) -> float:
    """Return the sum of a Prometheus metric over all its labels."""
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name}{{")
    )


def parse(text: str) -> dict[str, float]:
    """Return the values of a Prometheus page that are named `spegel_…` and have no labels."""
    lines = (line for line in text.splitlines() if line.startswith("spegel_") and "{" not in line)
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def _get(session: aiohttp.ClientSession, url: str) -> str | None:
    """Return the body of a 200 answer, None for anything else."""
    try:
        async with session.get(url) as response:
            return await response.text() if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
