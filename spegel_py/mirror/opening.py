"""Finding a peer that answers: its head is checked, and content that is small enough is verified, before a client
hears of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from spegel_py.errors import DigestMismatch, PeerError, PeerRefused
from spegel_py.mirror.asking import Asking
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.budget import Budget
from spegel_py.mirror.passage import Extent, Passage
from spegel_py.mirror.patience import Patience
from spegel_py.mirror.sizes import Sizes
from spegel_py.mirror.verify import Buffer, VerifyingSink
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.oci.range import ByteRange, unsatisfiable
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

WHOLE = 4 * 1024 * 1024
"""Blobs up to this many bytes, and all manifests, are verified before their first byte is sent: it takes
about 3 ms and saves the pull, which wrong bytes end."""

SMALL = Patience(min_rate=1024 * 1024, window=1.0)
"""For a blob that is verified first: its client sees nothing until it is here, so a slow peer is left after a second
for the next one, which goes on at the same byte."""


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
    """Asks peers for what a client pulls.

    `size` is how many bytes it has to have, None where that is not known. `sizes` learns from manifests. `continued` is
    told of each attempt that goes on where one broke.
    """

    def __init__(
        self,
        *,
        pull: PullRequest,
        asking: Asking,
        size: int | None,
        sizes: Sizes,
        budget: Budget,
        continued: Callable[[Attempt], None] = lambda _: None,
        max_age: float = math.inf,
    ) -> None:
        self._pull = pull
        self._asking = asking
        self._size = size
        self._sizes = sizes
        self._budget = budget
        self._held = 0  # bytes of the budget that this pull has taken
        self._continued = continued
        self._attempts = asking.attempts
        self._max_age = max_age

    def __repr__(self) -> str:
        return f"<Opening of {self._pull.key}>"

    def request(self, part: ByteRange | None, size: int | None = None) -> PeerRequest:
        """Return what a peer is asked for a part of the content (None for all of it), whose size may be known.

        A HEAD of a manifest is answered from the verified manifest, so a peer is asked for all of it: a wrong length or
        type, or the digest of a tag that nobody has, would end a runtime's pull though its registry is well.
        """
        pull = self._pull
        return PeerRequest(
            target=pull.target,
            head=pull.head and pull.kind is Kind.BLOB,
            accept=pull.accept,
            range=part,
            digest=pull.digest,
            size=size,
            max_age=self._max_age,
        )

    async def find(self) -> Opened | None:
        """Return the first usable answer, None if no peer has one. Raises RangeInvalid if the content is too short."""
        part = (
            self._pull.range if self._pull.kind is Kind.BLOB else None
        )  # a manifest is fetched whole, and cut here
        request = self.request(part, self._size)
        while (attempt := await self._asking.race(request, check=self._head)) is not None:
            if (opened := await self._take(attempt)) is not None:
                return opened
        return None

    def release(self) -> None:
        """Give back the memory that the body took, once it is sent."""
        self._budget.give_back(self._held)
        self._held = 0

    async def _take(self, attempt: Attempt) -> Opened | None:
        """Return a usable answer, after its body was verified where that comes first; None if its peer failed."""
        head = self._head(attempt.answer, attempt.peer)
        if self._pull.head and self._pull.kind is Kind.BLOB:
            await self._attempts.succeed(attempt)
            return Opened(head)
        if not await self._may_hold(head):
            attempt.offset = head.start
            return Opened(head, attempt=attempt)
        try:
            if attempt.answer.length < attempt.answer.size:
                await self._attempts.ask(attempt, self.request(None, head.size))
            is_blob = self._pull.kind is Kind.BLOB
            body = await (self._small(attempt, head) if is_blob else self._manifest(attempt, head))
        except PeerError as error:
            await self._attempts.fail(attempt, error)
            return None
        return self._cut(head, body) if body is not None else None

    async def _may_hold(self, head: RelayHead) -> bool:
        """Return True if the body is to be verified before its first byte is sent.

        A small blob for which there is no memory now is verified on its way, as large ones are; a manifest waits.
        """
        self.release()
        if self._pull.kind is Kind.MANIFEST:
            await self._budget.take(head.size)
        elif head.size > WHOLE or not self._budget.try_take(head.size):
            return False
        self._held = head.size
        return True

    async def _manifest(self, attempt: Attempt, head: RelayHead) -> bytes:
        """Return a manifest, verified. Raises PeerError."""
        body = await attempt.response.read()
        if len(body) != head.size or not head.digest.matches(body):
            self._attempts.accuse([attempt])
            raise DigestMismatch(f"the bytes are not those of {head.digest}")
        attempt.bytes = len(body)
        await self._attempts.succeed(attempt)
        self._sizes.learn(body)
        return body

    async def _small(self, attempt: Attempt, head: RelayHead) -> bytes | None:
        """Return a blob, verified, from this peer or in parts from several; None if none of them gave it.

        Raises DigestMismatch for an empty one that should not be: it has no bytes that the sink could verify.
        """
        if not head.size and not head.digest.matches(b""):
            self._attempts.accuse([attempt])
            raise DigestMismatch(f"no bytes are not those of {head.digest}")
        body = Buffer()
        attempt.offset = 0
        await Passage(
            extent=Extent(0, head.size, head.size),
            asking=self._asking,
            request=partial(self.request, size=head.size),
            continued=self._continued,
            patience=SMALL,
        ).run(attempt, VerifyingSink(body, digest=head.digest, size=head.size))
        return bytes(body.data) if body.sent == head.size else None

    def _cut(self, head: RelayHead, body: bytes) -> Opened:
        """Return what was asked for of the whole content."""
        start, length = self._pull.range.resolve(head.size) if self._pull.range else (0, head.size)
        media_type = detect(body) if self._pull.kind is Kind.MANIFEST else None
        head = replace(head, media_type=media_type or head.media_type, start=start, length=length)
        return Opened(head, None if self._pull.head else body[start : start + length])

    def _head(self, answer: PeerAnswer, peer: Peer) -> RelayHead:
        """Return what the client is to be told. Raises PeerError to refuse the answer, RangeInvalid."""
        if answer.start is None:
            raise unsatisfiable(answer.size)
        if self._pull.kind is Kind.MANIFEST and answer.size > MAX_MANIFEST:
            raise PeerRefused(f"a manifest of {answer.size} bytes", status=200)
        if (
            self._pull.kind is Kind.MANIFEST and answer.media_type is None
        ):  # containerd would ask for it as a blob
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
