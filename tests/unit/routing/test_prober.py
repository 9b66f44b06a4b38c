"""The prober's clock: a thread that does not get a core is late, and goes on."""

from __future__ import annotations

import random

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.failure_detector import PERIOD
from spegel_py.routing.libp2p.prober import SHORTEST, PeerProber


class _StarvedClock:
    """A clock on which time passes between any two readings."""

    def __init__(self, step: float) -> None:
        self._step = step
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self._step
        return self.now


@pytest.mark.parametrize("step", [2 * SHORTEST, 2 * PERIOD])
def test_a_starved_thread_goes_on_pinging(step: float) -> None:
    clock = _StarvedClock(step)
    prober = PeerProber(
        host=compat.build_host(Ed25519PrivateKey.generate(), announce=list),
        address_of=lambda peer: None,
        lost=lambda peer: None,
        counted=lambda event: None,
        changed=lambda: None,
        random=random.Random(1),
        clock=clock,
    )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prober.run)
            with trio.fail_after(10):
                while clock.now < 6 * step:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert prober.beat_at > 0
