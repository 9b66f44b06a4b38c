"""A layer that several slow peers share: real daemons, real links."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.integration.cluster import events, metric, publish, registry_away, start_cluster
from tests.support.images import image

pytestmark = pytest.mark.root

SIZE = 40_000_000
RATE = "60mbit"
"""Of each holder's uplink: alone it would take more than 5 s for the layer."""


async def test_slow_holders_share_a_layer() -> None:
    """Where one holder's link is the bottleneck the rest comes from all of them, and containerd
    finds it right.
    """
    async with start_cluster(4) as lab, AsyncExitStack() as stack:
        *holders, puller = lab.nodes
        reference, app = lab.name("test/app:shared"), image("shared", layers=1, size=SIZE)
        await publish(lab, reference, app, *holders)
        for holder in holders:
            await stack.enter_async_context(holder.namespace.throttled(RATE, burst="64kbit"))
        async with registry_away(lab):
            await puller.cri.pull(reference)
        [end] = events(puller, "relay finished", digest=str(app.blobs[-1].digest), method="GET")
        assert end["outcome"] == "complete"
        gave = {attempt["addr"] for attempt in end["attempts"] if attempt["bytes"]}
        assert gave == {f"{holder.address}:5000" for holder in holders}
        assert await metric(puller, "spegel_mirror_spreads_total") == 1
