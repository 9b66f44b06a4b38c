"""A mirror for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.mirror.lab import QUICK, Lab, start_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with start_lab() as lab:
        yield lab


@pytest.fixture
async def quick_lab() -> AsyncIterator[Lab]:
    """A mirror whose deadlines run out within the test."""
    async with start_lab(deadlines=QUICK) as lab:
        yield lab
