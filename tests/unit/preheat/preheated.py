"""A node that is pre-heated: a store in memory, behind a real registry and a real mirror."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from spegel_py.oci.build import Image
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import EVERYTHING, Filters
from spegel_py.oci.reference import Reference
from spegel_py.preheat.evacuation import Evacuation
from spegel_py.preheat.list_keeper import ListKeeper
from spegel_py.preheat.local_preheat import ImageOrder, LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.other_nodes import OtherNodes
from spegel_py.preheat.preheat_job import NodeProgress
from spegel_py.preheat.preheat_jobs import PreheatJobs
from spegel_py.preheat.preheat_messages import ListedTag
from spegel_py.preheat.registry_credentials import RegistryCredentials
from spegel_py.preheat.registry_lookup import RegistryLookup
from spegel_py.preheat.runtime_pulls import RuntimePulls
from spegel_py.preheat.sole_copies import SoleCopies
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.draining import Draining, DrainSigns
from spegel_py.replicas.metrics import ReplicaMetrics
from spegel_py.replicas.taker import ImageTaker
from spegel_py.routing.base import Peer
from spegel_py.routing.memory import MemoryNetwork, MemoryRequestResponse
from spegel_py.store.memory_replicas import MemoryReplicas
from spegel_py.store.memory_store import MemoryStore
from tests.support.image_server import ImageServer, image_server

OWN = KnownNode("12D3KooWme", "10.0.0.1", "worker-1")


async def tells_nothing(node: str, image: Reference) -> None:
    """Answer as a node that does not know a tag."""


class Preheated:
    """One node; its mirror and its registry are served from memory."""

    def __init__(
        self,
        mirror: ImageServer,
        registry: ImageServer,
        *,
        folder: Path | None = None,
        credentials: Path | None = None,
        filters: Filters = EVERYTHING,
        floor: int = 0,
        room: int | None = None,
        store: MemoryStore | None = None,
        replicas: type[MemoryReplicas] = MemoryReplicas,
    ) -> None:
        self.mirror, self.registry = mirror, registry
        self.metrics = CollectorRegistry()
        self.store = store or MemoryStore()
        self.replicas = replicas(store=self.store)

        async def left() -> int:
            return room or 0

        self.rng = random.Random(7)
        self.lookup = RegistryLookup(
            credentials=RegistryCredentials(credentials), plain=frozenset(), mirror=mirror.url
        )
        taker = ImageTaker(
            replicas=self.replicas, mirror=mirror.url, room=None if room is None else left
        )
        self.local = LocalPreheat(
            taker=taker,
            peer_taker=taker,
            replicas=self.replicas,
            runtime=RuntimePulls(None),
            lookup=self.lookup,
            filters=filters,
            floor=floor,
            rng=self.rng,
        )
        self.counted = PreheatMetrics(self.metrics)
        self.network = MemoryNetwork()
        self.drain = DrainState()
        own = Peer(OWN.id, OWN.address, 5000)
        self.router = self.network.join(own)
        self.jobs = PreheatJobs(
            own=OWN,
            local=self.local,
            others=OtherNodes(
                requests=MemoryRequestResponse(MemoryNetwork(), Peer(OWN.id, "10.0.0.1", 5000))
            ),
            lookup=self.lookup,
            sole_copies=SoleCopies(
                replicas=self.replicas,
                store=self.store,
                router=self.router,
                filters=filters,
                drain=self.drain,
            ),
            folder=folder,
            metrics=self.counted,
            rng=self.rng,
            drain=self.drain,
        )
        self.draining = Draining(
            state=self.drain,
            router=self.router,
            requests=MemoryRequestResponse(MemoryNetwork(), own),
            signs=DrainSigns(),
            folder=folder,
            metrics=ReplicaMetrics(self.metrics),
        )
        self.evacuation = Evacuation(
            jobs=self.jobs, draining=self.draining, keep=3600.0, is_at_stop=True
        )
        self.actions: list[dict[str, object]] = []
        self.jobs.on_action = self.draining.on_action = lambda record: self.actions.append(
            dict(record)
        )

    def name(self, tag: str = "1", repository: str = "team/app") -> str:
        """Return the full name of an image in the registry."""
        return f"{self.registry.url.removeprefix('http://')}/{repository}:{tag}"

    def list_keeper(
        self,
        path: Path,
        *,
        others: Collection[KnownNode] = (),
        ask: Callable[[str, Reference], Awaitable[ListedTag | None]] = tells_nothing,
    ) -> ListKeeper:
        """Return the keeper of the list in a file."""
        return ListKeeper(
            path=path,
            own=OWN,
            others=lambda: others,
            ask=ask,
            local=self.local,
            lookup=self.lookup,
            metrics=self.counted,
            longest=60.0,
            rng=self.rng,
        )

    def is_empty(self) -> bool:
        """Return True if nothing is here and nothing is kept."""
        has_parts = any(self.store.parts.values())
        return not self.store.keys and not has_parts and not self.replicas.held()

    async def take(self, order: ImageOrder, *, owner: str = "a job") -> NodeProgress:
        """Fetch an image to its end."""
        progress = NodeProgress()
        await self.local.preheat(order, progress, owner=owner)
        return progress


def digest_of(one: Image) -> Digest:
    return one.root.digest


@asynccontextmanager
async def preheated(*images: Image, **settings: object) -> AsyncIterator[Preheated]:
    """Run a node whose registry has these images, tagged 1, 2 and so on. No peer has anything."""
    async with image_server() as mirror, image_server() as registry:
        for number, one in enumerate(images, 1):
            registry.add(one, str(number))
        yield Preheated(mirror, registry, **settings)  # type: ignore[arg-type]
