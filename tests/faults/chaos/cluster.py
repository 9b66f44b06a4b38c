"""The machines of chaos: three seeds hold an image, and two pullers know nothing before a pull."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.build import Blob, Image
from spegel_py.oci.build import image as build
from tests.faults.primitives import kill
from tests.integration.cluster import advertised, found, heal, metric
from tests.support.images import random_layer
from tests.support.lab import Lab, Node, start_lab
from tests.support.namespaces import inside
from tests.support.processes import until

SEEDS, PULLERS = 3, 2

ROGUE_ADDRESS = "10.99.1.66"
"""The address of a machine outside the cluster, on which the rogue runs."""

VERIFIED = 4 * 1024 * 1024
"""Bytes up to which a node verifies a blob before it passes on the first byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The image that is pulled, with sizes in bytes, and the rate of the pullers' links."""

    layers: int
    smallest: int
    largest: int
    """Between `smallest` and `largest` bytes are in each of the `layers` layers."""
    large: int
    """Bytes of one more layer."""
    rate: str

    def image(self) -> Image:
        """Return the image; its large layer is the fourth, so small ones come before and after."""
        sizes = [
            random.Random(number).randint(self.smallest, self.largest)
            for number in range(self.layers)
        ]
        sizes.insert(3, self.large)
        return build([random_layer(f"chaos/{number}", size) for number, size in enumerate(sizes)])


FULL = Workload(layers=12, smallest=2_000_000, largest=4_000_000, large=30_000_000, rate="120mbit")
SHORT = Workload(layers=6, smallest=500_000, largest=1_500_000, large=9_000_000, rate="50mbit")


class ChaosCluster:
    """A lab whose pullers have links slow enough for a fault to strike in mid-pull."""

    def __init__(self, *, lab: Lab, workload: Workload) -> None:
        self.lab = lab
        self.workload = workload
        self.image = workload.image()
        self.reference = lab.name("test/chaos:1")
        self.seeds, self.pullers = lab.nodes[:SEEDS], lab.nodes[SEEDS:]
        self._used = set(self.pullers)
        self._flags: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes of the whole image."""
        return sum(len(blob.data) for blob in self.image.blobs)

    @property
    def layers(self) -> tuple[Blob, ...]:
        """All layers, without manifest and config."""
        return self.image.blobs[2:]

    @property
    def small(self) -> list[Blob]:
        """The layers that a node verifies before it passes them on."""
        return [blob for blob in self.layers if len(blob.data) <= VERIFIED]

    @property
    def large(self) -> list[Blob]:
        """The layers that a node passes on as they arrive."""
        return [blob for blob in self.layers if len(blob.data) > VERIFIED]

    async def seed(self) -> None:
        """Let every seed pull the image."""
        await heal(self.lab)
        await self.lab.registry.push(self.reference, self.image)
        await asyncio.gather(*(node.cri.pull(self.reference) for node in self.seeds))
        await found(self.pullers[0], self.reference, self.image.blobs[1:])

    async def refresh(self, pullers: Sequence[Node], flags: Mapping[str, str]) -> None:
        """Prepare the next round: mend all nodes, and run them with these flags.

        The nodes of the last round and of the next one lose their content. This returns when the
        pullers know the content of all seeds.
        """
        if flags != self._flags:
            await asyncio.gather(*map(_end, self.lab.nodes))
            self._flags = dict(flags)
        await asyncio.gather(*map(_renew, self._used.union(pullers)))
        await heal(self.lab, **flags)
        await until(self._are_told, deadline=30.0, pause=0.1)
        self.lab.registry.forget()
        self._used = set(pullers)

    async def traffic(self) -> Traffic:
        """Return the switch's counters."""
        switch = self.lab.nodes[0].namespace.switch
        return parse_traffic(await inside(switch, Path("/proc/thread-self/net/dev").read_text))

    async def _are_told(self) -> bool:
        """Return True if the seeds announce the whole image and the pullers have recorded it."""
        digests = [await metric(seed, "spegel_advertised_content_digests") for seed in self.seeds]
        tags = [await metric(seed, "spegel_advertised_image_tags") for seed in self.seeds]
        keys = [await advertised(seed) for seed in self.seeds]
        held = [await metric(puller, "spegel_records_held") for puller in self.pullers]
        return set(digests) == {len(self.image.blobs)} and all(tags) and set(held) == {sum(keys)}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that the machine at each port of the switch has sent and received."""

    sent: dict[str, int]
    received: dict[str, int]


def parse_traffic(text: str) -> Traffic:
    """Return the counters in the text of the switch's /proc/net/dev."""
    lines = (line.partition(":") for line in text.splitlines()[2:])
    counters = {name.strip(): list(map(int, numbers.split())) for name, _, numbers in lines}
    return Traffic(
        {name: numbers[0] for name, numbers in counters.items()},
        {name: numbers[8] for name, numbers in counters.items()},
    )


@asynccontextmanager
async def start_cluster(workload: Workload) -> AsyncIterator[ChaosCluster]:
    """Start the lab with spegel-py on every node, and the image at the registry and the seeds."""
    async with start_lab(nodes=SEEDS + PULLERS, guests={"rogue": ROGUE_ADDRESS}) as lab:
        cluster = ChaosCluster(lab=lab, workload=workload)
        await cluster.seed()
        yield cluster


async def _end(node: Node) -> None:
    if node.spegel:
        await kill(node)


async def _renew(node: Node) -> None:
    """End a node and delete its content: after a pull it would answer from its own content."""
    await _end(node)
    await node.daemon.stop()
    node.daemon.forget()
