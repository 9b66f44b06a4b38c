"""containerd's leases of this program: each keeps content from garbage collection."""

from __future__ import annotations

from contextlib import suppress

from google.protobuf.empty_pb2 import Empty

from spegel_py.errors import ContentNotFound, DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.api import leases_pb2
from spegel_py.store.containerd.grpc_client import Client
from spegel_py.store.containerd.lease_labels import Lease
from spegel_py.tools.cancellation import to_the_end

_LEASES = "/containerd.services.leases.v1.Leases"


class Leases:
    """containerd's leases of this program."""

    def __init__(self, *, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<Leases {self._client!r}>"

    async def list(self, *beginnings: str) -> list[Lease]:
        """Return all leases whose ids begin so."""
        request = leases_pb2.ListRequest(filters=[f'id~="^{each}"' for each in beginnings])
        answer = await self._client.call(f"{_LEASES}/List", request, leases_pb2.ListResponse)
        return [
            Lease(
                one.id,
                {label.key: label.value for label in one.labels},
                one.created_at.ToNanoseconds() / 1e9,
            )
            for one in answer.leases
            if one.id.startswith(beginnings)
        ]

    async def content(self, lease: Lease) -> frozenset[Digest]:
        """Return the digests of a lease's content; none if the lease is gone."""
        request = leases_pb2.ListResourcesRequest(id=lease.id)
        try:
            answer = await self._client.call(
                f"{_LEASES}/ListResources", request, leases_pb2.ListResourcesResponse
            )
        except ContentNotFound:
            return frozenset()
        found = set()
        for one in answer.resources:
            with suppress(DigestInvalid):
                found.add(Digest.parse(one.id))
        return frozenset(found)

    async def create(self, lease: Lease) -> None:
        """Create a lease without content. It is made, or was refused, before a cancellation."""
        labels = [leases_pb2.Label(key=key, value=value) for key, value in lease.labels.items()]
        request = leases_pb2.CreateRequest(id=lease.id, labels=labels)
        await to_the_end(self._client.call(f"{_LEASES}/Create", request, leases_pb2.CreateResponse))

    async def add(self, lease: Lease, digest: Digest, *, snapshotter: str = "") -> None:
        """Add a blob to a lease, or a snapshot of a snapshotter.

        containerd does not check that it is here.
        """
        kind = f"snapshots/{snapshotter}" if snapshotter else "content"
        resource = leases_pb2.Resource(id=str(digest), type=kind)
        request = leases_pb2.AddResourceRequest(id=lease.id, resource=resource)
        await self._client.call(f"{_LEASES}/AddResource", request, Empty)

    async def delete(self, lease: Lease, *, sync: bool = False) -> None:
        """Delete a lease, if it exists. With `sync`, return after the garbage collection."""
        request = leases_pb2.DeleteRequest(id=lease.id, sync=sync)
        with suppress(ContentNotFound):
            await self._client.call(f"{_LEASES}/Delete", request, Empty)
