"""What a runtime waits for a manifest that a peer has, or for the 404 when nobody has it, over
whole nodes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from spegel_py.oci import build
from spegel_py.oci.build import Image
from tests.benchmarks import client, nodes
from tests.benchmarks.client import Timed
from tests.benchmarks.figures import Figure, latencies
from tests.support import images

NODES = 5
WARM_UP = 40
"""Requests before the timed ones: the first to each peer opens a connection, which is kept as a
running node's are.
"""
_ONE_HOP = {"mesh-limit": 0, "replication": 1}


async def measure(*, is_quick: bool) -> list[Figure]:
    """Ask one node for manifests that the four others hold, each of them once, and for digests of
    nothing.
    """
    count = 80 if is_quick else 500
    mesh = await _regime(count, {})
    hop = await _regime(count, _ONE_HOP)
    return summarise(*mesh, *hop)


def summarise(
    mesh: Sequence[Timed],
    mesh_absent: Sequence[Timed],
    hop: Sequence[Timed],
    hop_absent: Sequence[Timed],
) -> list[Figure]:
    """Return the figures of both regimes; of the one-hop only the 404 has a target."""
    client_ = f"{NODES} nodes, one kept connection"
    hop_client = f"{client_}, mesh limit 0, replication 1"
    return [
        _figure(
            "manifest from a peer",
            200,
            f"{client_}, every digest once",
            mesh,
            {"p50": 6.0, "p95": 20.0},
        ),
        _figure("absent digest, 404", 404, client_, mesh_absent, {"p95": 20.0}),
        _figure("manifest from a peer", 200, hop_client, hop, {}),
        _figure("absent digest, 404", 404, hop_client, hop_absent, {"p95": 20.0}),
    ]


def _figure(
    name: str, status: int, conditions: str, timed: Sequence[Timed], targets: Mapping[str, float]
) -> Figure:
    right = [each.seconds for each in timed if each.status == status]
    return Figure(
        name=name,
        conditions=conditions,
        unit="ms",
        values=latencies(right) | {"other status": float(len(timed) - len(right))},
        targets={**targets, "other status": 0.0},
        samples=len(timed),
    )


async def _regime(count: int, flags: Mapping[str, object]) -> tuple[list[Timed], list[Timed]]:
    each = (count + WARM_UP) // (NODES - 1)
    held = [_images(number, each) for number in range(1, NODES)]
    async with nodes.cluster([{}, *held], flags=flags) as cluster:
        copies = 1 if flags else NODES - 1
        await nodes.told(cluster, copies * sum(nodes.records(content) for content in held))
        digests = [str(one.root.digest) for content in held for one in content.values()]
        random.Random(0).shuffle(digests)
        port = cluster[0].registry
        await client.time_each(port, [_path(digest) for digest in digests[:WARM_UP]])
        found = await client.time_each(port, [_path(digest) for digest in digests[WARM_UP:]])
        absent = [
            f"sha256:{hashlib.sha256(f'absent {number}'.encode()).hexdigest()}"
            for number in range(count)
        ]
        missed = await client.time_each(port, [_path(digest) for digest in absent])
    return found, missed


def _images(number: int, count: int) -> dict[str, Image]:
    base = images.random_layer(f"node {number}", 1024)
    return {
        f"registry.test/bench/n{number}:{each}": build.image(
            [base], command=(f"/n{number}/{each}",)
        )
        for each in range(count)
    }


def _path(digest: str) -> str:
    return f"/v2/bench/app/manifests/{digest}?ns=registry.test"
