"""Five machines and a registry: three seeds that hold one image, two pullers that know nothing before each pull."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from spegel_py.oci.build import Blob, Image
from spegel_py.oci.build import image as build
from tests.images import random_layer
from tests.integration.cluster import found, heal, limited, metric
from tests.lab import Lab, Node, start_lab
from tests.namespaces import inside
from tests.processes import until

SEEDS, PULLERS = 3, 2

ROGUE = "10.99.1.66"
"""The address of a machine that is none of the cluster."""

VERIFIED = 4 * 1024 * 1024
"""Bytes up to which a node verifies a blob before it passes on the first byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is pulled: `layers` layers of `smallest` to `largest` bytes and a large one, over a link of `rate`."""

    layers: int
    smallest: int
    largest: int
    large: int
    rate: str

    def image(self) -> Image:
        """Return the image; the large layer is the fourth, so that small ones come before, beside and after it."""
        sizes = [
            random.Random(number).randint(self.smallest, self.largest)
            for number in range(self.layers)
        ]
        sizes.insert(3, self.large)
        return build([random_layer(f"chaos/{number}", size) for number, size in enumerate(sizes)])


FULL = Load(layers=12, smallest=2_000_000, largest=4_000_000, large=30_000_000, rate="120mbit")
SHORT = Load(layers=6, smallest=500_000, largest=1_500_000, large=9_000_000, rate="50mbit")


class Field:
    """A lab with its roles. The pullers' links are slow enough for a fault to strike in the middle of a pull."""

    def __init__(self, *, lab: Lab, load: Load) -> None:
        self.lab = lab
        self.load = load
        self.image = load.image()
        self.reference = lab.name("test/chaos:1")
        self.seeds, self.pullers = lab.nodes[:SEEDS], lab.nodes[SEEDS:]
        self._used = set(self.pullers)
        self._running: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Field of {self.lab.nodes}, {self.size} bytes to pull>"

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
        """The layers that are verified before they are passed on."""
        return [blob for blob in self.layers if len(blob.data) <= VERIFIED]

    @property
    def large(self) -> list[Blob]:
        """The layers that are passed on as they come."""
        return [blob for blob in self.layers if len(blob.data) > VERIFIED]

    async def refresh(self, pullers: Sequence[Node], flags: Mapping[str, str]) -> None:
        """Heal what is broken, make new machines of those that pulled, and let `pullers` know what the seeds hold.

        All nodes run with these flags then.
        """
        if flags != self._running:
            await asyncio.gather(*map(_end, self.lab.nodes))
            self._running = dict(flags)
        await asyncio.gather(*map(_renew, self._used.union(pullers)))
        await heal(self.lab, **flags)
        await until(self._are_told, deadline=30.0, pause=0.1)
        self.lab.registry.forget()
        self._used = set(pullers)

    async def seed(self) -> None:
        """Have every seed hold the image."""
        await heal(self.lab)
        await self.lab.registry.push(self.reference, self.image)
        await asyncio.gather(*(node.cri.pull(self.reference) for node in self.seeds))
        await found(self.pullers[0], self.reference, self.image.blobs[1:])

    @asynccontextmanager
    async def slow_links(self, nodes: Sequence[Node]) -> AsyncIterator[None]:
        """Limit what arrives at these nodes, whoever sends it."""
        async with AsyncExitStack() as stack:
            for node in nodes:
                await stack.enter_async_context(limited(node, self.load.rate))
            yield

    async def traffic(self) -> Traffic:
        """Return the switch's counters."""
        switch = self.lab.nodes[0].namespace.switch
        return parse_traffic(await inside(switch, Path("/proc/thread-self/net/dev").read_text))

    async def _are_told(self) -> bool:
        """Say whether the seeds advertise the whole image, and the pullers hold what is advertised."""
        digests = [await metric(seed, "spegel_advertised_content_digests") for seed in self.seeds]
        tags = [await metric(seed, "spegel_advertised_image_tags") for seed in self.seeds]
        held = [await metric(puller, "spegel_records_held") for puller in self.pullers]
        return (
            set(digests) == {len(self.image.blobs)}
            and all(tags)
            and set(held) == {sum(digests) + sum(tags)}
        )


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes by port of the switch: `sent` by the machine at it, and `received` by that machine."""

    sent: dict[str, int]
    received: dict[str, int]


def parse_traffic(text: str) -> Traffic:
    """Return what the text of /proc/net/dev says."""
    lines = (line.partition(":") for line in text.splitlines()[2:])
    counters = {name.strip(): list(map(int, numbers.split())) for name, _, numbers in lines}
    return Traffic(
        {name: numbers[0] for name, numbers in counters.items()},
        {name: numbers[8] for name, numbers in counters.items()},
    )


@asynccontextmanager
async def start_field(load: Load) -> AsyncIterator[Field]:
    """Start the lab, with spegel-py on every node, and the image at the registry and the seeds."""
    async with start_lab(nodes=SEEDS + PULLERS, guests={"rogue": ROGUE}) as lab:
        field = Field(lab=lab, load=load)
        await field.seed()
        yield field


async def _end(node: Node) -> None:
    if node.spegel:
        await node.spegel.end(signal.SIGKILL)


async def _renew(node: Node) -> None:
    """End what runs and forget what it held: a node that has just pulled would answer from its own content."""
    await _end(node)
    await node.daemon.stop()
    node.daemon.forget()
