"""What proofs between peers cost a pull: manifests from a peer, with and without, in turns."""

from __future__ import annotations

from contextlib import AsyncExitStack
from statistics import median

from spegel_py.oci import build
from tests.benchmarks import client, nodes
from tests.benchmarks.client import Timed
from tests.benchmarks.figures import Figure, latencies
from tests.support import images

BATCH = 50
"""Requests to one pair of nodes before the other pair has its turn."""
MODES = ("prefer", "off")


async def measure(*, is_quick: bool) -> list[Figure]:
    """Ask two pairs of nodes for manifests, each of which only the asked node's peer has."""
    turns = 4 if is_quick else 24
    base = images.random_layer("proofs", 1024)
    held = {
        f"registry.test/bench/proofs:{number}": build.image([base], command=(f"/{number}",))
        for number in range(BATCH * (turns + 1))
    }
    paths = [f"/v2/bench/app/manifests/{one.root.digest}?ns=registry.test" for one in held.values()]
    found: dict[str, list[Timed]] = {mode: [] for mode in MODES}
    async with AsyncExitStack() as stack:
        ports = {}
        for mode in MODES:
            pair = await stack.enter_async_context(
                nodes.cluster([{}, held], flags={"peer-proofs": mode})
            )
            await nodes.told(pair, nodes.records(held))
            ports[mode] = pair[0].registry
            await client.time_each(ports[mode], paths[:BATCH])  # opens the connection to the peer
        for turn in range(1, turns + 1):
            for mode in MODES:
                batch = paths[turn * BATCH : (turn + 1) * BATCH]
                found[mode] += await client.time_each(ports[mode], batch)
    times = {mode: [each.seconds for each in timed] for mode, timed in found.items()}
    wrong = sum(each.status != 200 for timed in found.values() for each in timed)
    more = 1000 * (median(times["prefer"]) - median(times["off"]))
    return [
        *(
            Figure(
                name=f"manifest from a peer, peer-proofs {mode}",
                conditions="2 nodes, one kept connection, in turns",
                unit="ms",
                values=latencies(times[mode]),
                samples=len(times[mode]),
            )
            for mode in MODES
        ),
        Figure(
            name="what proofs add",
            conditions="both of the same run",
            unit="ms",
            values={"p50": more, "other status": float(wrong)},
            targets={"p50": 0.3, "other status": 0.0},
            samples=len(times["off"]),
        ),
    ]
