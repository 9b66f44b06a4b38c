"""The cancellation of a task that handles the errors of a task group."""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError if the current task was asked to end.

    A TaskGroup raises the errors of its tasks in place of a cancellation that comes at the same
    moment (before CPython 3.13). A loop that handles these errors would then go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
