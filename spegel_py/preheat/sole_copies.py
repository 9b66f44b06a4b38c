"""The images that only this node has, which are lost with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from spegel_py.errors import OCIError
from spegel_py.oci.digest import Digest
from spegel_py.oci.filters import Filters
from spegel_py.oci.manifest import Child
from spegel_py.oci.reference import Reference
from spegel_py.replicas.drain_state import DrainState
from spegel_py.routing.base import Router
from spegel_py.store.base import PlatformImage, Replicas, Store
from spegel_py.store.walker import Walker


@dataclass(frozen=True, slots=True, kw_only=True)
class SoleCopy:
    """An image that no other node has.

    Args:
        reference: a name of it, without a digest if it has a tag.
        root: the digest by which it is pulled.
        seen: the Unix time of the tag's last pull; None without a tag.
    """

    reference: Reference
    root: Digest
    manifest: Digest
    size: int
    seen: float | None = None


class SoleCopies:
    """Finds the images of one node that no other node has."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        store: Store,
        router: Router,
        filters: Filters,
        drain: DrainState | None = None,
    ) -> None:
        self._replicas = replicas
        self._store = store
        self._router = router
        self._filters = filters
        self._drain = drain or DrainState()

    def __repr__(self) -> str:
        return f"<SoleCopies {self._replicas!r}>"

    async def find(self) -> list[SoleCopy]:
        """Return them, the smallest first, so that most images are saved in a short time.

        Images without a name that nodes may share are left out. Raises StoreUnavailable.
        """
        found: dict[Digest, SoleCopy] = {}
        walker = Walker(open=self._store.open)
        for one in await self._replicas.pulled():
            images = await walker.images(Child(one.root.digest, 0, ""), self._store.stat)
            for image in images.values():
                self._add(found, image, [(one.name, one.pulled)])
        for replica in self._replicas.held().values():
            name = f"{replica.image.root.digest}"
            names = replica.names or {name: 0.0}
            self._add(found, replica.image, names.items())
        alone = [one for one in found.values() if not await self._has_others(one)]
        return sorted(alone, key=lambda one: (one.size, str(one.manifest)))

    def _add(
        self,
        found: dict[Digest, SoleCopy],
        image: PlatformImage,
        names: Iterable[tuple[str, float]],
    ) -> None:
        """Add an image under the first name that may be shared; a tag is better than a digest."""
        for name, pulled in names:
            try:
                reference = Reference.parse(name)
            except OCIError:
                continue
            label = reference.name or f"{reference.registry}/{reference.repository}"
            known = found.get(image.manifest)
            if self._filters.exclude(label) or (known and (known.seen is not None)):
                continue
            found[image.manifest] = SoleCopy(
                reference=replace(reference, digest=None) if reference.tag else reference,
                root=image.root.digest,
                manifest=image.manifest,
                size=image.size,
                seen=pulled if reference.tag else None,
            )

    async def _has_others(self, one: SoleCopy) -> bool:
        """Return True if a node has the image that does not drain, and is not about to fail."""
        leaving = self._drain.leaving_peers
        async for peer in self._router.lookup(str(one.manifest), limit=len(leaving) + 1):
            if peer.id not in leaving:
                return True
        return False
