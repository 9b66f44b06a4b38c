"""Images that containerd's CRI pulls at this program's request, as it does at the kubelet's.

A pin keeps the kubelet from removing an image (containerd 1.7 and later). It is a label of the
image's record, with a second one that says until when the pin counts, so it can be found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.field_mask_pb2 import FieldMask

from spegel_py.errors import ContentNotFound
from spegel_py.oci.digest import Digest
from spegel_py.store.containerd.api import cri_pb2, images_pb2
from spegel_py.store.containerd.grpc_client import Client, NamedImage
from spegel_py.tools.basic_auth import Credentials

PINNED = "io.cri-containerd.pinned"
"""The label of a pinned image (containerd, internal/cri/labels)."""

UNTIL = "spegel-py/pinned-until"
"""The label with the Unix time until which this program pins an image."""

PINS_FROM = (1, 7)
"""The first version whose CRI tells the kubelet about pins."""

PULL_TIMEOUT = 86_400.0
"""Seconds for a pull; the job's own limit ends it earlier."""

_IMAGE_SERVICE = "/runtime.v1.ImageService"
_IMAGES = "/containerd.services.images.v1.Images"


@dataclass(frozen=True, slots=True)
class PulledByCri:
    """An image that the CRI lists: the digests by which its repositories know it, and its size."""

    digests: tuple[str, ...]
    size: int
    is_pinned: bool

    def has(self, digest: Digest) -> bool:
        """Return True if the image was pulled by this digest."""
        return any(one.endswith(f"@{digest}") for one in self.digests)


class CriImages:
    """The images of containerd's CRI."""

    def __init__(self, *, client: Client) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<CriImages {self._client!r}>"

    async def find(self, image: str) -> PulledByCri | None:
        """Return an image by its reference; None if it is not there.

        Raises StoreUnavailable; NotServed without a CRI.
        """
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=image))
        answer = await self._client.call(
            f"{_IMAGE_SERVICE}/ImageStatus", request, cri_pb2.ImageStatusResponse
        )
        if not answer.HasField("image"):
            return None
        found = answer.image
        return PulledByCri(tuple(found.repo_digests), int(found.size), bool(found.pinned))

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Have the CRI pull an image. Raises StoreUnavailable, with the CRI's reason."""
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=image))
        if credentials is not None:
            auth = cri_pb2.AuthConfig(username=credentials.username, password=credentials.password)
            request.auth.CopyFrom(auth)
        await self._client.call(
            f"{_IMAGE_SERVICE}/PullImage", request, cri_pb2.PullImageResponse, timeout=PULL_TIMEOUT
        )

    async def can_pin(self) -> bool:
        """Return True if the kubelet learns of pins."""
        version = (await self._client.version()).removeprefix("v").split(".")
        return tuple(int(part) for part in version[:2]) >= PINS_FROM

    async def pin(self, digest: Digest, until: float) -> None:
        """Pin an image that was pulled by this digest. Raises ContentNotFound."""
        found = [image for image in await self._client.images() if _is_of(image, digest)]
        if not found:
            raise ContentNotFound(f"no image of the runtime has the digest {digest}")
        for image in found:
            await self._set(image, {PINNED: "pinned", UNTIL: repr(until)})

    async def unpin(self, digest: Digest) -> None:
        """Take back the pin of an image, if this program has set it."""
        for image in await self._client.images():
            if image.target.digest == digest and UNTIL in image.labels:
                await self._set(image, {PINNED: "", UNTIL: ""})

    async def pins(self) -> Mapping[Digest, float]:
        """Return the images that this program has pinned, with the Unix times of the pins' ends."""
        found = {}
        for image in await self._client.images():
            with suppress(KeyError, ValueError):
                found[image.target.digest] = float(image.labels[UNTIL])
        return found

    async def _set(self, image: NamedImage, labels: Mapping[str, str]) -> None:
        """Set labels of an image's record; an empty one is removed.

        An update without a target ends containerd 2.x (imageFromProto).
        """
        target = image.target
        record = images_pb2.Image(
            name=image.name,
            labels=[
                images_pb2.Label(key=key, value=value) for key, value in labels.items() if value
            ],
            target=images_pb2.Descriptor(
                media_type=target.media_type, digest=str(target.digest), size=target.size
            ),
        )
        request = images_pb2.UpdateImageRequest(
            image=record, update_mask=FieldMask(paths=[f"labels.{key}" for key in labels])
        )
        with suppress(ContentNotFound):  # the kubelet has removed it
            await self._client.call(f"{_IMAGES}/Update", request, images_pb2.UpdateImageResponse)


def _is_of(image: NamedImage, digest: Digest) -> bool:
    """Return True for the record of a pull by this digest: a tag's record may move to another."""
    return image.target.digest == digest and image.name.endswith(f"@{digest}")
