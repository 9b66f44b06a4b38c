"""Blocking work whose outcome a future of an event loop waits for, in whatever thread it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def work_for(future: asyncio.Future[T], work: Callable[[], T]) -> None:
    """Do the work in this thread, and give what it returns or raises to the future, if its loop still runs."""
    result, failure = None, None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
        failure = error
    with suppress(RuntimeError):  # the loop has ended meanwhile
        future.get_loop().call_soon_threadsafe(settle, future, result, failure)


def settle(future: asyncio.Future[T], result: T | None, failure: Exception | None) -> None:
    """End a future, on its loop, unless nobody waits for it any more."""
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no failure
