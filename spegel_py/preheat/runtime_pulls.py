"""Images that the node's runtime pulls at this program's request, for `--depth runtime`.

The pull goes by the runtime's own way: through this node's mirror, if containerd is configured to
ask it. The image is the kubelet's from then on, and only a pin keeps it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from spegel_py.errors import ContentNotFound, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import Reference
from spegel_py.preheat.preheat_fault import PreheatFailed, PreheatFault
from spegel_py.preheat.preheat_job import NodeProgress, PreheatStage
from spegel_py.pull.plan import Platform
from spegel_py.tools.basic_auth import Credentials

if TYPE_CHECKING:
    from spegel_py.store.containerd import CriImages

log = structlog.get_logger(__name__)

_REFUSED = re.compile(
    r"\b40[13]\b|unauthorized|unauthenticated|authorization failed|access denied|forbidden",
    re.IGNORECASE,
)
_MISSING = re.compile(r"not found|\b404\b", re.IGNORECASE)
_NO_PLATFORM = re.compile(r"no match for platform", re.IGNORECASE)


class RuntimePulls:
    """The runtime's pulls of one node.

    Args:
        images: the images of the CRI; None for a store without a runtime.
    """

    def __init__(self, images: CriImages | None, *, clock: Callable[[], float] = time.time) -> None:
        self._images = images
        self._clock = clock
        self._pins: dict[Digest, float] | None = None

    def __repr__(self) -> str:
        return f"<RuntimePulls {self._images!r}>"

    async def pull(
        self,
        reference: Reference,
        digest: Digest,
        progress: NodeProgress,
        *,
        platform: Platform | None,
        credentials: Credentials | None,
        pin_until: float | None,
    ) -> None:
        """Have the runtime pull an image, as `progress` says. Raises PreheatFailed.

        Args:
            digest: the digest that the image shall have.
            platform: the wanted platform; None for this node's own, which the runtime pulls.
            pin_until: the Unix time until which the image is pinned; None for no pin.
        """
        images = self._images
        if images is None:
            text = "this node's store is not containerd's, so no runtime pulls into it"
            raise PreheatFailed(PreheatFault.NO_CRI, text)
        if platform not in (None, Platform.here()):
            text = f"the runtime pulls images for {Platform.here()}, and not for {platform}"
            raise PreheatFailed(PreheatFault.NO_PLATFORM, text)
        try:
            await self._pull(images, reference, digest, progress, credentials, pin_until)
        except (StoreUnavailable, ContentNotFound) as error:
            raise _fault(error) from error

    async def _pull(
        self,
        images: CriImages,
        reference: Reference,
        digest: Digest,
        progress: NodeProgress,
        credentials: Credentials | None,
        pin_until: float | None,
    ) -> None:
        image = reference.name or str(replace(reference, digest=digest))
        if pin_until is not None and not await images.can_pin():
            text = "containerd before 1.7 does not tell the kubelet that an image is pinned"
            raise PreheatFailed(PreheatFault.NO_PIN, text)
        before = await images.find(image)
        was_here = before is not None and before.has(digest)
        if not was_here:
            progress.stage, progress.why, progress.error = PreheatStage.TAKING, "", ""
            await images.pull(image, credentials)
        found = await images.find(image)
        if found is None or not found.has(digest):
            text = f"the runtime got another digest for {image} than {digest}: the tag has moved"
            raise PreheatFailed(PreheatFault.TAG_MOVED, text)
        if pin_until is not None:
            await self._pin(images, digest, pin_until)
        progress.done = progress.total = found.size
        progress.end(PreheatStage.HERE if was_here else PreheatStage.DONE)
        log.info("pulled by runtime", image=image, was_here=was_here, pinned=pin_until is not None)

    async def _pin(self, images: CriImages, digest: Digest, until: float) -> None:
        pins = await self._known(images)
        pins[digest] = max(until, pins.get(digest, 0.0))
        await images.pin(digest, pins[digest])

    def pinned_until(self, digest: Digest) -> float:
        """Return the Unix time at which an image's pin ends; 0 for none."""
        return (self._pins or {}).get(digest, 0.0)

    async def unpin(self, digest: Digest) -> None:
        """Take back a pin, if there is one. Raises StoreUnavailable."""
        if self._images is None or digest not in await self._known(self._images):
            return
        await self._images.unpin(digest)
        (self._pins or {}).pop(digest, None)
        log.info("image unpinned", image=str(digest))

    async def unpin_expired(self) -> None:
        """Take back the pins whose time is over. Raises StoreUnavailable."""
        if self._images is None:
            return
        for digest, until in list((await self._known(self._images)).items()):
            if until <= self._clock():
                await self.unpin(digest)

    async def _known(self, images: CriImages) -> dict[Digest, float]:
        """Return the pins: those of an earlier process are in containerd."""
        if self._pins is None:
            self._pins = dict(await images.pins())
        return self._pins


def _fault(error: StoreUnavailable | ContentNotFound) -> PreheatFailed:
    """Return the fault that an error of the CRI shows; its text is all that the CRI gives."""
    from spegel_py.store.containerd.grpc_errors import NotServed  # a layout has no gRPC

    text = str(error)
    if isinstance(error, NotServed):
        text = "containerd does not serve the CRI here: its plugin is disabled, or has failed"
        return PreheatFailed(PreheatFault.NO_CRI, text)
    if _REFUSED.search(text):
        return PreheatFailed(PreheatFault.NO_CREDENTIALS, text)
    if _NO_PLATFORM.search(text):
        return PreheatFailed(PreheatFault.NO_PLATFORM, text)
    if isinstance(error, ContentNotFound) or _MISSING.search(text):
        return PreheatFailed(PreheatFault.NOT_FOUND, text)
    return PreheatFailed(PreheatFault.UNREACHABLE, text)
