"""Takes images into this node's store: from peers by way of its own mirror, else from a registry.

The manifests are fetched and written first, as a runtime does. A lease keeps all that is written,
and at the end the image is held as a replica. An image that could not be taken leaves nothing
behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from spegel_py.errors import SpegelError
from spegel_py.replicas.take_budget import TakeBudget
from spegel_py.replicas.take_order import (
    TakeFailed,
    TakeFault,
    TakeOrder,
    TakeProgress,
    TakeReport,
)
from spegel_py.store.base import PlatformImage, Replica, Replicas
from spegel_py.tools.addresses import MirrorAddress
from spegel_py.transfer.bucket import TokenBucket

Room = Callable[[], Awaitable[int]]
"""Returns the bytes that may be added to the store."""

Gate = Callable[[], Awaitable[None]]
"""Returns when the next bytes may be asked for."""


async def _open_gate() -> None:
    return


class ImageTaker:
    """Takes images, any number at a time, within a budget that other takers may share.

    Args:
        mirror: this node's own registry.
        budget: limits the bytes per second of all images together, and knows the room that is
            promised to images; None for one of this taker alone, without a limit.
        room: returns the bytes that may be added; None for no check.
        gate: is awaited before each piece, so that takes give way to a runtime's pulls.
        clock: Unix time.
        monotonic: seconds.
    """

    def __init__(
        self,
        *,
        replicas: Replicas,
        mirror: str | MirrorAddress,
        budget: TakeBudget | None = None,
        room: Room | None = None,
        gate: Gate = _open_gate,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas = replicas
        self._mirror = mirror
        self._budget = budget or TakeBudget()
        self._room = room
        self._gate = gate
        self._clock = clock
        self._monotonic = monotonic
        self._under_way: list[TakeProgress] = []

    def __repr__(self) -> str:
        return f"<ImageTaker {len(self._under_way)} under way by {self._mirror}>"

    @property
    def under_way(self) -> Sequence[TakeProgress]:
        """The images that are being taken."""
        return tuple(self._under_way)

    async def take(self, order: TakeOrder, *, progress: TakeProgress | None = None) -> TakeReport:
        """Take an image and hold it as a replica.

        Args:
            progress: is kept up to date while the image is taken; None for a new one.

        Raises TakeFailed. Nothing is kept then, nor after a cancellation.
        """
        progress = progress or TakeProgress(order)
        progress.began = self._monotonic()
        progress.is_admitted = False
        self._under_way.append(progress)
        self._budget.begin(progress)
        try:
            with _explained(order):
                replica = await self._take(order, progress)
        finally:
            self._under_way.remove(progress)
            self._budget.end(progress)
        return TakeReport(
            replica=replica,
            received=progress.received,
            upstream=progress.upstream,
            seconds=self._monotonic() - progress.began,
        )

    async def _take(self, order: TakeOrder, progress: TakeProgress) -> Replica:
        # A node that takes no image loads no client of mirrors.
        from spegel_py.replicas.image_fetch import ImageFetch
        from spegel_py.replicas.image_manifests import find_manifests, hosts_of, image_of

        async with hosts_of(order, mirror=self._mirror) as hosts:
            manifests = await find_manifests(hosts, order, progress)
            image, blobs = image_of(manifests)
            progress.image = image
            await self._check_room(order, image, progress)
            reference = order.reference
            sources = [f"{reference.registry}/{reference.repository}"]
            replica, own = self._replica(order, image), TokenBucket(rate=order.rate)
            async with self._replicas.writing(
                image, sources=sources, is_shared=not order.is_background
            ) as writer:
                fetch = ImageFetch(hosts, writer, progress, pay=partial(self._pay, order, own))
                # A node with filters shares a blob that still comes only if a manifest names it.
                for number, manifest in reversed(list(enumerate(manifests))):
                    below = blobs if number == len(manifests) - 1 else [manifests[number + 1].child]
                    await fetch.put(manifest, below)
                await fetch.all(blobs)
                await self._replicas.hold(replica)
        return replica

    def _replica(self, order: TakeOrder, image: PlatformImage) -> Replica:
        return Replica(
            image=image,
            names=dict(order.names),
            reason=order.reason,
            used=self._clock() if order.used is None else order.used,
            expires=round(order.expires),
            is_unpacked=order.is_unpacked,
        )

    async def _check_room(
        self, order: TakeOrder, image: PlatformImage, progress: TakeProgress
    ) -> None:
        if image.size > order.max_size:
            raise TakeFailed(
                f"{order.reference} has {image.size} bytes, more than {order.max_size}",
                why=TakeFault.TOO_LARGE,
            )
        needed = image.size * order.footprint
        if self._room is not None:
            # What is promised to others is read after the wait, so that nobody is counted twice.
            room = await self._room()
            room -= self._budget.promised(progress)
            if needed > room:
                raise TakeFailed(
                    f"{order.reference} needs {needed} bytes, and there is room for {max(0, room)}",
                    why=TakeFault.NO_ROOM,
                )
        progress.is_admitted = True

    async def _pay(self, order: TakeOrder, own: TokenBucket, count: int) -> None:
        """Wait until `count` bytes are paid for, by the node's limit and by the image's own.

        An image that a person waits for is not held back by either the gate or the node's limit.
        """
        if not order.is_background:
            return
        await self._gate()
        now = self._monotonic()
        pause = max(self._budget.pay(count, now), own.pay(count, now))
        if pause:
            await asyncio.sleep(pause)


@contextmanager
def _explained(order: TakeOrder) -> Iterator[None]:
    """Turn each error into TakeFailed, with the image's name."""
    try:
        yield
    except TakeFailed:
        raise
    except SpegelError as error:
        raise TakeFailed(f"{order.reference}: {error}", why=TakeFault.of(error)) from error
