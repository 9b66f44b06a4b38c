"""A small client of containerd's gRPC API: the few calls that are used, with values of this
package.

Every call has a deadline. Every error is one of `spegel_py.errors`, so no gRPC type leaves this
module.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError

from spegel_py.errors import ContentNotFound, DigestInvalid, StoreUnavailable
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import Child
from spegel_py.store.containerd.api import content_pb2, events_pb2, images_pb2, version_pb2
from spegel_py.store.containerd.grpc_channel import Call, ChannelClosed, UnixChannel
from spegel_py.store.containerd.grpc_duplex import Duplex
from spegel_py.store.containerd.grpc_errors import LATE, translate
from spegel_py.wording import containerd_away

TIMEOUT = 5.0
"""Seconds for one answer, or for the next part of a stream. A local daemon answers in milliseconds.
"""

SOURCE = "containerd.io/distribution.source."
"""Prefix of the labels with a blob's repositories; the registry follows.

The value is a list of repositories with commas between them (containerd,
remotes/docker/handler.go).
"""

CHILD = "containerd.io/gc.ref.content"
"""Prefix of the labels that protect a manifest's content from garbage collection.

The value is a digest.
"""

_IMAGES = "/containerd.services.images.v1.Images"
_CONTENT = "/containerd.services.content.v1.Content"
_EVENTS = "/containerd.services.events.v1.Events"
_VERSION = "/containerd.services.version.v1.Version"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image in containerd. Its name is a tag, `repository@digest`, or a bare digest.

    `created` and `updated` are the Unix times at which its record was made and last written. Each
    pull writes the record, even without a change, and so does each new label.
    """

    name: str
    target: Child
    created: float
    updated: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """A blob that the namespace holds, and the repositories (`registry/repository`) it was pulled
    from.

    An imported blob has no repository. A blob that several images share may have several.
    """

    digest: Digest
    size: int
    sources: frozenset[str]


@dataclass(frozen=True, slots=True)
class ImageChanged:
    """An image of this name was created, updated or deleted. Query the image to learn which."""

    name: str


@dataclass(frozen=True, slots=True)
class ContentCreated:
    """A blob was committed. Only containerd 2.1 and later send this."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class ContentDeleted:
    """A blob was deleted by a client. Garbage collection sends no event."""

    digest: Digest


StoreEvent = ImageChanged | ContentCreated | ContentDeleted


class Client:
    """A connection to one namespace of a daemon. It reconnects by itself.

    Use it as an async context manager. Methods raise StoreUnavailable while the daemon is away.
    """

    def __init__(
        self, *, socket: Path, namespace: str = "k8s.io", timeout: float = TIMEOUT
    ) -> None:
        self.socket = socket
        self.namespace = namespace
        self._timeout = timeout
        self._metadata = {"containerd-namespace": namespace}
        self._channel = UnixChannel(socket)

    def __repr__(self) -> str:
        return f"<Client {self.socket} namespace={self.namespace}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    async def version(self) -> str:
        """Return the daemon's version, as in `1.6.20~ds1` or `v2.1.4`."""
        answer = await self.call(f"{_VERSION}/Version", Empty(), version_pb2.VersionResponse)
        return str(answer.version)

    async def image(self, name: str) -> NamedImage:
        """Return the image of this name, or raise ContentNotFound."""
        request = images_pb2.GetImageRequest(name=name)
        answer = await self.call(f"{_IMAGES}/Get", request, images_pb2.GetImageResponse)
        return _image(answer.image)

    async def images(self) -> list[NamedImage]:
        """Return all images, except those whose target is no valid digest."""
        answer = await self.call(
            f"{_IMAGES}/List", images_pb2.ListImagesRequest(), images_pb2.ListImagesResponse
        )
        found = []
        for one in answer.images:
            try:
                found.append(_image(one))
            except ContentNotFound:
                continue
        return found

    async def info(self, digest: Digest) -> BlobRecord:
        """Return the record of a blob, or raise ContentNotFound."""
        request = content_pb2.InfoRequest(digest=str(digest))
        answer = await self.call(f"{_CONTENT}/Info", request, content_pb2.InfoResponse)
        return _record(digest, answer.info)

    async def content(self) -> dict[Digest, BlobRecord]:
        """Return the records of all blobs."""
        return {digest: _record(digest, info) async for digest, info in self._infos()}

    async def named_by_manifests(self) -> dict[Digest, frozenset[str]]:
        """Return the sources of the manifests that name content, by the content's digest.

        Content that is being pulled is included: containerd labels a manifest before it fetches the
        manifest's content.
        """
        found: dict[Digest, frozenset[str]] = {}
        async for digest, info in self._infos():
            if sources := _record(digest, info).sources:
                for child in _children(info):
                    found[child] = found.get(child, frozenset()) | sources
        return found

    async def labels(self) -> dict[Digest, dict[str, str]]:
        """Return the labels of all blobs."""
        return {
            digest: {label.key: label.value for label in info.labels}
            async for digest, info in self._infos()
        }

    async def _infos(self) -> AsyncIterator[tuple[Digest, Any]]:
        request = content_pb2.ListContentRequest()
        async for answer in self._stream(
            f"{_CONTENT}/List", request, content_pb2.ListContentResponse
        ):
            for info in answer.info:
                try:
                    yield Digest.parse(info.digest), info
                except DigestInvalid:
                    continue

    async def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, start + length) of a blob, in pieces of the daemon's size."""
        if not length:
            return  # containerd reads to the end if the size is 0
        request = content_pb2.ReadContentRequest(digest=str(digest), offset=start, size=length)
        async for answer in self._stream(
            f"{_CONTENT}/Read", request, content_pb2.ReadContentResponse
        ):
            yield answer.data

    async def events(self) -> AsyncGenerator[StoreEvent | None, None]:
        """Yield None once the subscription is active, then events as they come.

        It has no deadline, since silence is normal and a dying daemon closes the socket. At the end
        it raises StoreUnavailable.
        """
        request = events_pb2.SubscribeRequest(
            filters=[
                f'namespace=="{self.namespace}",topic~="^/(images|content)/(create|update|delete)$"'
            ]
        )
        async with self._call(f"{_EVENTS}/Subscribe", request, events_pb2.Envelope) as call:
            # The stream sends nothing before its first event. An answer to a later call on the
            # same connection proves that the daemon has the subscription.
            await self.version()
            yield None
            while (envelope := await call.receive()) is not None:
                event = _event(envelope)
                if event is not None:
                    yield event
        raise StoreUnavailable(f"containerd at {self.socket} ended its event stream")

    async def call(
        self,
        method: str,
        request: Message,
        answer: type[Message],
        *,
        namespace: str = "",
        lease: str = "",
        timeout: float | None = None,
    ) -> Any:
        """Return the answer to one call. Other modules here use it for further services.

        Args:
            namespace: another namespace than this client's.
            lease: the lease that keeps what the call creates.
            timeout: seconds for an answer that takes longer than most.
        """
        metadata = {"containerd-namespace": namespace or self.namespace}
        if lease:
            metadata["containerd-lease"] = lease
        with self._errors():
            async with asyncio.timeout(timeout or self._timeout):
                found = await self._channel.unary(method, request, answer, metadata)
        if found is None:
            raise StoreUnavailable(f"containerd did not answer {method}")
        return found

    @asynccontextmanager
    async def _call(
        self, method: str, request: Message, answer: type[Message]
    ) -> AsyncIterator[Call]:
        """Give a call of many answers, its request sent."""
        kinds = Cardinality.UNARY_STREAM, type(request), answer
        with self._errors():
            async with self._channel.call(method, *kinds, self._metadata) as call:
                async with asyncio.timeout(self._timeout):
                    await call.send(request, is_last=True)
                yield call

    async def _stream(
        self, method: str, request: Message, answer: type[Message]
    ) -> AsyncIterator[Any]:
        async with self._call(method, request, answer) as call:
            while True:
                async with asyncio.timeout(self._timeout):
                    part = await call.receive()
                if part is None:
                    return
                yield part

    @asynccontextmanager
    async def duplex(
        self, method: str, request: type[Message], answer: type[Message], *, lease: str
    ) -> AsyncIterator[Duplex]:
        """Give a call of requests and answers in turn, below a lease.

        At the end the daemon has carried out all that was sent, unless it takes too long.
        """
        metadata = self._metadata | {"containerd-lease": lease}
        kinds = Cardinality.STREAM_STREAM, request, answer
        async with self._channel.call(method, *kinds, metadata) as call:
            duplex = Duplex(call, self._errors)
            try:
                yield duplex
            finally:
                await duplex.end()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise StoreUnavailable(containerd_away(self.socket, LATE)) from error
        except (GRPCError, OSError) as error:
            raise translate(error, self.socket) from error
        except ChannelClosed as error:
            raise StoreUnavailable(f"containerd: {error}") from error


def _image(image: Any) -> NamedImage:
    target = image.target
    try:
        child = Child(Digest.parse(target.digest), target.size, target.media_type)
    except DigestInvalid as error:
        raise ContentNotFound(
            f"the image {image.name} points at no digest: {error.message}"
        ) from error
    return NamedImage(
        name=image.name,
        target=child,
        created=image.created_at.ToNanoseconds() / 1e9,
        updated=image.updated_at.ToNanoseconds() / 1e9,
        labels={label.key: label.value for label in image.labels},
    )


def _record(digest: Digest, info: Any) -> BlobRecord:
    sources = (
        f"{label.key.removeprefix(SOURCE)}/{repository}"
        for label in info.labels
        if label.key.startswith(SOURCE)
        for repository in label.value.split(",")
        if repository
    )
    return BlobRecord(digest, info.size, frozenset(sources))


def _children(info: Any) -> Iterator[Digest]:
    for label in info.labels:
        if label.key.startswith(CHILD):
            with suppress(DigestInvalid):
                yield Digest.parse(label.value)


def _event(envelope: Any) -> StoreEvent | None:
    kind, payload = envelope.topic, envelope.event.value
    try:
        if kind.startswith("/images/"):
            return ImageChanged(events_pb2.ImageEvent.FromString(payload).name)
        digest = Digest.parse(events_pb2.ContentEvent.FromString(payload).digest)
    except (DecodeError, DigestInvalid):
        return None
    return ContentCreated(digest) if kind == "/content/create" else ContentDeleted(digest)
