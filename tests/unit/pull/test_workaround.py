"""Workarounds for aiohttp. These tests fail when they are not needed any more."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import aiohttp
import pytest

from spegel_py.pull.mirror_client import _left_over


async def test_aiohttp_forgets_what_came_before_a_break() -> None:
    """Its reader (3.14) raises though it holds received bytes.

    Without them a pull might seem stuck.
    """
    reader = aiohttp.StreamReader(Mock(), 1024, loop=asyncio.get_running_loop())
    reader.feed_data(b"came in")
    reader.set_exception(aiohttp.ClientPayloadError())
    with pytest.raises(aiohttp.ClientPayloadError):
        await reader.readany()
    assert _left_over(reader) == b"came in"
    assert _left_over(reader) == b""
