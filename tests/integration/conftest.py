"""The `labs` fixture: clusters in a box, ended with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.support.lab import Lab, start_lab

Labs = Callable[[int], Awaitable[Lab]]


@pytest.fixture
async def labs() -> AsyncIterator[Labs]:
    """Start a lab with so many nodes: `lab = await labs(3)`."""
    async with AsyncExitStack() as stack:

        async def start(nodes: int) -> Lab:
            return await stack.enter_async_context(start_lab(nodes=nodes))

        yield start


@pytest.fixture
async def lab(labs: Labs) -> Lab:
    """A lab with two nodes."""
    return await labs(2)
