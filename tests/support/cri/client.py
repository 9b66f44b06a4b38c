"""Pulls images as a kubelet does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from spegel_py.store.containerd.api import cri_pb2
from tests.support.cri import runtime_pb2

_SERVICE = "/runtime.v1.ImageService"


@dataclass(frozen=True, slots=True)
class CriImage:
    """An image as the runtime lists it; the id is its config's digest."""

    id: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    size: int


class Cri:
    """The image service of one containerd; errors are grpc.aio.AioRpcError."""

    def __init__(self, *, socket: Path) -> None:
        self._target = f"unix:{socket}"

    async def pull(
        self, reference: str, *, user: str = "", password: str = "", deadline: float = 120.0
    ) -> str:
        """Pull an image, as for a Pod with a pull secret if there is a user; return its id."""
        auth = cri_pb2.AuthConfig(username=user, password=password) if user else None
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=reference), auth=auth)
        answer = await self._ask("PullImage", request, cri_pb2.PullImageResponse, deadline)
        return str(answer.image_ref)

    async def images(self) -> list[CriImage]:
        """Return all images."""
        answer = await self._ask(
            "ListImages", runtime_pb2.ListImagesRequest(), runtime_pb2.ListImagesResponse
        )
        return [_image(one) for one in answer.images]

    async def status(self, reference: str) -> CriImage | None:
        """Return one image, or None if it is not there."""
        request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=reference))
        answer = await self._ask("ImageStatus", request, cri_pb2.ImageStatusResponse)
        return _image(answer.image) if answer.HasField("image") else None

    async def remove(self, reference: str) -> None:
        """Remove an image under all its names."""
        request = runtime_pb2.RemoveImageRequest(image=cri_pb2.ImageSpec(image=reference))
        await self._ask("RemoveImage", request, runtime_pb2.RemoveImageResponse)

    async def _ask(
        self, method: str, request: Message, answer: type[Message], deadline: float = 20.0
    ) -> Any:
        async with grpc.aio.insecure_channel(self._target) as channel:
            call = channel.unary_unary(
                f"{_SERVICE}/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            return await call(request, timeout=deadline)


def _image(image: Any) -> CriImage:
    return CriImage(image.id, tuple(image.repo_tags), tuple(image.repo_digests), image.size)
