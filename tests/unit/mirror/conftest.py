"""A mirror for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.mirror.lab import Lab, start_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with start_lab() as lab:
        yield lab
