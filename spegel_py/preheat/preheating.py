"""All parts of pre-heating on one node: the jobs it is asked for, and the list that it keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.preheat.list_keeper import ListKeeper
from spegel_py.preheat.local_preheat import ImageOrder, LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.preheat_job import NodeProgress
from spegel_py.preheat.preheat_jobs import PreheatJobs
from spegel_py.preheat.registry_credentials import RegistryCredentials
from spegel_py.preheat.registry_lookup import RegistryLookup
from spegel_py.replicas.taker import ImageTaker
from spegel_py.routing.base import Member
from spegel_py.store.base import Replicas
from spegel_py.tools.addresses import split_host_port

AGENT = "spegel-py/"
"""Beginning of the agents of nodes that may be meant by the list. Spegel's own nodes are not."""


class Preheating:
    """Pre-heating on one node.

    Args:
        own: this node.
        members: returns the connected peers.
        mirror: the URL of this node's own mirror.
        floor: the floor of replicas.
        credentials: a file or folder with credentials of registries.
        plain: registries that are asked without TLS.
        folder: the data directory.
        list_path: the file of the list.
        longest: seconds for which the list may keep the node from being ready.
    """

    def __init__(
        self,
        *,
        own: KnownNode,
        members: Callable[[], Iterable[Member]],
        replicas: Replicas,
        taker: ImageTaker,
        mirror: str,
        filters: Filters,
        floor: int,
        credentials: Path | None,
        plain: frozenset[str],
        folder: Path | None,
        list_path: Path | None,
        longest: float,
        metrics: PreheatMetrics,
        rng: random.Random,
    ) -> None:
        self._members = members
        lookup = RegistryLookup(
            credentials=RegistryCredentials(credentials), plain=plain, mirror=mirror
        )
        self.local = LocalPreheat(
            taker=taker, replicas=replicas, lookup=lookup, filters=filters, floor=floor, rng=rng
        )
        self.jobs = PreheatJobs(
            own=own,
            local=self.local,
            others=NoOthers(),
            lookup=lookup,
            folder=folder,
            metrics=metrics,
            rng=rng,
        )
        self.list = None
        if list_path is not None:
            self.list = ListKeeper(
                path=list_path,
                own=own,
                others=self._spegel_nodes,
                local=self.local,
                lookup=lookup,
                metrics=metrics,
                longest=longest,
                rng=rng,
            )
        metrics.watch(self.jobs.counts)

    def __repr__(self) -> str:
        return f"<Preheating {self.jobs!r} {self.list!r}>"

    def not_ready(self) -> str | None:
        """Return why images of the list keep the node from being ready; None if they do not."""
        return self.list.not_ready() if self.list else None

    def describe_list(self) -> Mapping[str, object] | None:
        """Return the list with the state of its images here, as JSON; None without a list."""
        return self.list.describe() if self.list else None

    async def run(self) -> None:
        """Carry out jobs and keep the list until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.jobs.run(), name="preheat jobs")
            if self.list is not None:
                tasks.create_task(self.list.run(), name="preheat list")

    def _spegel_nodes(self) -> list[KnownNode]:
        return [
            KnownNode(one.id, _host(one)) for one in self._members() if one.agent.startswith(AGENT)
        ]


class NoOthers:
    """The other nodes where none can be asked."""

    def known(self) -> Collection[KnownNode]:
        return ()

    async def preheat(
        self, node: str, job: str, order: ImageOrder, progress: NodeProgress, *, until: float
    ) -> None:
        raise NotImplementedError

    async def drop(self, node: str, job: str, digest: Digest) -> None:
        return


def _host(member: Member) -> str:
    if member.peer is not None:
        return member.peer.host
    try:
        return split_host_port(member.address)[0]
    except ValueError:
        return ""
