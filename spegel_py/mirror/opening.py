"""Finding a peer that answers: its head is checked, and content that is small enough is verified, before a client
hears of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from spegel_py.errors import DigestMismatch, PeerError, PeerRefused
from spegel_py.mirror.asking import Asking
from spegel_py.mirror.attempts import Attempt
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.oci.range import ByteRange, unsatisfiable
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

WHOLE = 4 * 1024 * 1024
"""Blobs up to this many bytes, and all manifests, are verified before their first byte is sent: it takes
about 3 ms and saves the pull, which wrong bytes end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayHead:
    """What the client is told first: `length` bytes from `start` on, of content of `size` bytes, from `peer`.

    `age` is how many seconds ago a tag was seen at its registry, None if the peer does not say.
    """

    media_type: str
    digest: Digest
    size: int
    start: int
    length: int
    peer: Peer
    age: int | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A usable answer: its head, and the whole body if it was verified, or else the attempt that will send it."""

    head: RelayHead
    body: bytes | None = None
    attempt: Attempt | None = None


class Opening:
    """Asks peers for what a client pulls."""

    def __init__(self, *, pull: PullRequest, asking: Asking, max_age: float = math.inf) -> None:
        self._pull = pull
        self._asking = asking
        self._attempts = asking.attempts
        self._max_age = max_age

    def __repr__(self) -> str:
        return f"<Opening of {self._pull.key}>"

    def request(self, part: ByteRange | None, size: int | None = None) -> PeerRequest:
        """Return what a peer is asked for a part of the content (None for all of it), whose size may be known."""
        pull = self._pull
        return PeerRequest(
            target=pull.target,
            head=pull.head,
            accept=pull.accept,
            range=part,
            digest=pull.digest,
            size=size,
            max_age=self._max_age,
        )

    async def find(self) -> Opened | None:
        """Return the first usable answer, None if no peer has one. Raises RangeInvalid if the content is too short."""
        part = self._pull.range if self._pull.kind is Kind.BLOB else None  # a manifest is fetched whole, and cut here
        while (attempt := await self._asking.race(self.request(part), check=self._head)) is not None:
            try:
                return await self._take(attempt)
            except PeerError as error:
                await self._attempts.fail(attempt, error)
        return None

    async def _take(self, attempt: Attempt) -> Opened:
        """Return a usable answer, after its body was verified where that comes first. Raises PeerError."""
        head, opened = self._head(attempt.answer, attempt.peer), None
        if self._pull.head:
            opened = Opened(head)
        elif self._pull.kind is Kind.MANIFEST or head.size <= WHOLE:
            opened = await self._verified(attempt, head)
            attempt.bytes = opened.head.length
        if opened is not None:
            await self._attempts.succeed(attempt)
            return opened
        attempt.offset = head.start
        return Opened(head, attempt=attempt)

    async def _verified(self, attempt: Attempt, head: RelayHead) -> Opened:
        """Read all of the content, check it, and keep of it what was asked for."""
        if attempt.answer.length < attempt.answer.size:
            await self._attempts.ask(attempt, self.request(None))
        body = await attempt.response.read()
        if len(body) != head.size or not head.digest.matches(body):
            self._attempts.accuse([attempt])
            raise DigestMismatch(f"the bytes are not those of {head.digest}")
        start, length = self._pull.range.resolve(head.size) if self._pull.range else (0, head.size)
        media_type = detect(body) if self._pull.kind is Kind.MANIFEST else None
        head = replace(head, media_type=media_type or head.media_type, start=start, length=length)
        return Opened(head, body[start : start + length])

    def _head(self, answer: PeerAnswer, peer: Peer) -> RelayHead:
        """Return what the client is to be told. Raises PeerError to refuse the answer, RangeInvalid."""
        if answer.start is None:
            raise unsatisfiable(answer.size)
        if self._pull.kind is Kind.MANIFEST and answer.size > MAX_MANIFEST:
            raise PeerRefused(f"a manifest of {answer.size} bytes", status=200)
        if self._pull.kind is Kind.MANIFEST and answer.media_type is None:  # containerd would ask for it as a blob
            raise PeerRefused("a manifest without a Content-Type", status=200)
        if answer.digest is None:
            raise PeerRefused("a tag without a Docker-Content-Digest", status=200)
        return RelayHead(
            media_type=answer.media_type or "application/octet-stream",
            digest=answer.digest,
            size=answer.size,
            start=answer.start,
            length=answer.length,
            peer=peer,
            age=answer.age,
        )
