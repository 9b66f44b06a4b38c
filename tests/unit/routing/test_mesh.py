"""What goes wrong with one peer stays with that peer."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from spegel_py.routing.libp2p.mesh import tolerating

PEER = ID(b"\x00\x01x")


async def _breaks_when_cancelled() -> None:
    """Do what a link does whose stream breaks in the moment it is cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        try:
            await trio.sleep_forever()
        finally:
            raise StreamEOF


def test_a_break_together_with_a_cancellation_ends_one_task_only() -> None:
    """A stream that breaks in the moment its task is cancelled raises a group that is no Exception; still it goes
    nowhere, and the cancellation is not swallowed."""

    async def main() -> str:
        scope = trio.CancelScope()

        async def tend() -> None:
            with scope:
                with tolerating("it broke", PEER):
                    await _breaks_when_cancelled()
                raise AssertionError("the cancellation was swallowed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tend)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        return "alive"

    assert trio.run(main) == "alive"


def test_an_interrupt_is_not_tolerated() -> None:
    """What is no Exception goes on."""
    with pytest.raises(BaseExceptionGroup), tolerating("it broke", PEER):
        raise BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])
