"""All parts of pre-heating on one node: the jobs it is asked for, and the list that it keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import structlog

from spegel_py.errors import StoreUnavailable
from spegel_py.oci.filters import Filters
from spegel_py.preheat.list_keeper import CHECK, ListKeeper
from spegel_py.preheat.local_preheat import LocalPreheat
from spegel_py.preheat.metrics import PreheatMetrics
from spegel_py.preheat.node_choice import KnownNode
from spegel_py.preheat.other_nodes import OtherNodes
from spegel_py.preheat.preheat_jobs import PreheatJobs
from spegel_py.preheat.preheat_responder import PreheatResponder
from spegel_py.preheat.registry_credentials import RegistryCredentials
from spegel_py.preheat.registry_lookup import RegistryLookup
from spegel_py.preheat.runtime_pulls import RuntimePulls
from spegel_py.preheat.sole_copies import SoleCopies
from spegel_py.replicas.disk_room import DiskRoom
from spegel_py.replicas.drain_state import DrainState
from spegel_py.replicas.replica_rules import SCAN
from spegel_py.replicas.taker import ImageTaker
from spegel_py.routing.base import Member, RequestResponse
from spegel_py.store.base import Replicas
from spegel_py.telemetry.logging import FaultLog
from spegel_py.tools.addresses import MirrorAddress, split_host_port

log = structlog.get_logger(__name__)

AGENT = "spegel-py/"
"""Beginning of the agents of nodes that may be meant by the list. Spegel's own nodes are not."""


class Preheating:
    """Pre-heating on one node.

    Args:
        own: this node.
        members: returns the connected peers.
        requests: carries messages to other nodes.
        is_open: False to fetch nothing for other nodes.
        disk: measures the disk.
        drain: whether this node drains, and which peers do.
        runtime: has the runtime pull images.
        mirror: this node's own registry.
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
        requests: RequestResponse,
        replicas: Replicas,
        taker: ImageTaker,
        peer_taker: ImageTaker,
        runtime: RuntimePulls,
        sole_copies: SoleCopies,
        mirror: str | MirrorAddress,
        filters: Filters,
        floor: int,
        credentials: Path | None,
        plain: frozenset[str],
        folder: Path | None,
        list_path: Path | None,
        longest: float,
        is_open: bool,
        disk: DiskRoom,
        drain: DrainState,
        metrics: PreheatMetrics,
        rng: random.Random,
    ) -> None:
        self._members = members
        self._disk = disk
        self._floor = floor
        self._faults = FaultLog(log)
        self._credentials_fault = ""
        self._lookup = lookup = RegistryLookup(
            credentials=RegistryCredentials(credentials), plain=plain, mirror=mirror
        )
        self.local = LocalPreheat(
            taker=taker,
            peer_taker=peer_taker,
            replicas=replicas,
            runtime=runtime,
            lookup=lookup,
            filters=filters,
            floor=floor,
            rng=rng,
        )
        others = OtherNodes(requests=requests)
        self.jobs = PreheatJobs(
            own=own,
            local=self.local,
            others=others,
            lookup=lookup,
            sole_copies=sole_copies,
            folder=folder,
            metrics=metrics,
            rng=rng,
            drain=drain,
        )
        self.list = None
        if list_path is not None:
            self.list = ListKeeper(
                path=list_path,
                own=own,
                others=self._spegel_nodes,
                ask=others.resolve,
                local=self.local,
                lookup=lookup,
                metrics=metrics,
                longest=longest,
                rng=rng,
            )
        self.responder = PreheatResponder(
            local=self.local, metrics=metrics, is_open=is_open, drain=drain, name=own.name
        )
        if self.list is not None:
            self.responder.listed_tag = self.list.listed_tag
        metrics.watch(self.jobs.counts)

    def __repr__(self) -> str:
        return f"<Preheating {self.jobs!r} {self.list!r}>"

    def not_ready(self) -> str | None:
        """Return why images of the list keep the node from being ready; None if they do not."""
        return self.list.not_ready() if self.list else None

    def faults(self) -> Mapping[str, str]:
        """Return the faults of the list and of the credentials, by the file or the image."""
        found = {"credentials": self._credentials_fault} if self._credentials_fault else {}
        return {**found, **(self.list.faults() if self.list else {})}

    def describe(self, socket: Path | None) -> Mapping[str, object]:
        """Return the faults, the list's file and the control socket, as JSON for the doctor."""
        faults = dict(self.faults())
        if socket is not None and not socket.exists():
            faults["control socket"] = f"{socket} is missing; the node's log says why"
        return {
            "faults": faults,
            "list": str(self.list.path) if self.list else None,
            "control_socket": str(socket) if socket else None,
        }

    def describe_list(self) -> Mapping[str, object] | None:
        """Return the list with the state of its images here, as JSON; None without a list."""
        return self.list.describe() if self.list else None

    async def run(self) -> None:
        """Carry out jobs and keep the list until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.jobs.run(), name="preheat jobs")
            tasks.create_task(self._give_way(), name="preheat disk")
            tasks.create_task(self._check_credentials(), name="preheat credentials")
            tasks.create_task(self.responder.run(), name="preheat for others")
            if self.list is not None:
                tasks.create_task(self.list.run(), name="preheat list")

    async def _check_credentials(self) -> None:
        """Read the file of credentials from time to time, before an image needs it."""
        while True:
            try:
                self._credentials_fault = await self._lookup.credentials_fault()
            except Exception as error:  # noqa: BLE001 - a fault here must not end the node
                self._faults.log_once("credentials were not checked", error)
            await asyncio.sleep(CHECK)

    async def _give_way(self) -> None:
        """Release images while the disk is too full. With a floor, the keeper of replicas does."""
        while not self._floor:
            await asyncio.sleep(SCAN)
            try:
                if self.local.kept:
                    await self.local.give_way(await self._disk.use())
            except StoreUnavailable:
                continue  # the watcher has logged it
            except Exception as error:  # noqa: BLE001 - a fault here must not end the node
                self._faults.log_once("preheated images did not give way", error)

    def _spegel_nodes(self) -> list[KnownNode]:
        return [
            KnownNode(one.id, _host(one), zone=one.zone)
            for one in self._members()
            if one.agent.startswith(AGENT)
        ]


def _host(member: Member) -> str:
    if member.peer is not None:
        return member.peer.host
    try:
        return split_host_port(member.address)[0]
    except ValueError:
        return ""
