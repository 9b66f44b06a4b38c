"""The first usable answer of a peer: the client gets a checked head, and verified small content."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spegel_py.errors import DigestMismatch, PeerError, PeerRefused
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.body_relay import BodyRelay, Extent
from spegel_py.mirror.hedged_request import HedgedRequest
from spegel_py.mirror.pull_state import PullState
from spegel_py.mirror.slow_peers import SlowPeerPolicy
from spegel_py.mirror.verification import MAX_BUFFERED, BufferSink, VerifyingSink
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.oci.range import unsatisfiable
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer

BUFFERED_POLICY = SlowPeerPolicy(min_rate=1024 * 1024, window=1.0)
"""For a blob that is verified before it is sent: its client sees nothing until the blob is here.

So a slow peer is left after a second for the next one, which goes on at the same byte.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayHead:
    """The head of the answer to the client.

    The body is `length` bytes from `start` on, of content of `size` bytes, from `peer`. `age` is
    how many seconds ago a tag was seen at its registry, None if the peer does not tell. `seen` is
    the tag's observation as it came.
    """

    media_type: str
    digest: Digest
    size: int
    start: int
    length: int
    peer: Peer
    age: float | None
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class UsableAnswer:
    """A head, and the verified body or the attempt that will send it; a HEAD has neither."""

    head: RelayHead
    body: bytes | None = None
    attempt: Attempt | None = None


class FirstResponse:
    """Asks the peers of a pull until one gives a usable answer."""

    def __init__(self, state: PullState) -> None:
        self._state = state
        self._pull = state.pull
        self._reserved = 0  # bytes of the memory budget that this pull has taken

    def __repr__(self) -> str:
        return f"<FirstResponse to {self._pull.key}>"

    async def find(self) -> UsableAnswer | None:
        """Return the first usable answer, None if no peer has one.

        Raises RangeInvalid if the content is too short.
        """
        # a manifest is fetched whole, and cut here
        part = self._pull.range if self._pull.kind is Kind.BLOB else None
        request = self._state.request(part, self._state.expected_size)
        while (
            attempt := await HedgedRequest(self._state, request, check=self._head).run()
        ) is not None:
            if (answer := await self._answer(attempt)) is not None:
                return answer
        return None

    def release(self) -> None:
        """Give back the memory that the body took, once it is sent."""
        self._state.memory.release(self._reserved)
        self._reserved = 0

    async def _answer(self, attempt: Attempt) -> UsableAnswer | None:
        """Return the attempt's answer, None if its peer failed.

        Case 1: the HEAD of a blob has no body.
        Case 2: a large blob, or a blob without memory for it now, is verified on its way.
        Case 3: a manifest or a small blob is fetched whole, and verified first.
        """
        attempts, is_blob = self._state.attempts, self._pull.kind is Kind.BLOB
        head = self._head(attempt.answer, attempt.peer)
        if self._pull.head and is_blob:
            await attempts.succeed(attempt)
            return UsableAnswer(head)
        if not await self._reserve_memory(head):
            attempt.offset = head.start
            return UsableAnswer(head, attempt=attempt)
        try:
            if attempt.answer.length < attempt.answer.size:
                await attempts.ask(attempt, self._state.request(None, head.size))
            if is_blob:
                body = await self._small_blob(attempt, head)
            else:
                body = await self._manifest(attempt, head)
        except PeerError as error:
            await attempts.fail(attempt, error)
            return None
        return self._cut(head, body) if body is not None else None

    async def _reserve_memory(self, head: RelayHead) -> bool:
        """Return True if the body is to be verified before its first byte is sent.

        A small blob for which there is no memory now is verified on its way, as large ones are; a
        manifest waits.
        """
        self.release()
        memory = self._state.memory
        if self._pull.kind is Kind.MANIFEST:
            await memory.reserve(head.size)
        elif head.size > MAX_BUFFERED or not memory.try_reserve(head.size):
            return False
        self._reserved = head.size
        return True

    async def _manifest(self, attempt: Attempt, head: RelayHead) -> bytes:
        """Return a manifest, verified. Raises PeerError."""
        attempts = self._state.attempts
        body = await attempt.response.read()
        if len(body) != head.size or not head.digest.matches(body):
            attempts.accuse([attempt])
            raise DigestMismatch(f"the bytes are not those of {head.digest}")
        attempt.bytes = len(body)
        await attempts.succeed(attempt)
        self._state.sizes.record_manifest(body)
        return body

    async def _small_blob(self, attempt: Attempt, head: RelayHead) -> bytes | None:
        """Return a verified blob, from this peer or in parts from several; None if no peer gave it.

        Raises DigestMismatch for an empty body that should have bytes: there is nothing that the
        sink could verify.
        """
        if not head.size and not head.digest.matches(b""):
            self._state.attempts.accuse([attempt])
            raise DigestMismatch(f"no bytes are not those of {head.digest}")
        body = BufferSink()
        attempt.offset = 0
        relay = BodyRelay(self._state, Extent(0, head.size, head.size), policy=BUFFERED_POLICY)
        await relay.run(attempt, VerifyingSink(body, digest=head.digest, size=head.size))
        return bytes(body.data) if body.sent == head.size else None

    def _cut(self, head: RelayHead, body: bytes) -> UsableAnswer:
        """Return the requested part of the whole content."""
        start, length = self._pull.range.resolve(head.size) if self._pull.range else (0, head.size)
        media_type = detect(body) if self._pull.kind is Kind.MANIFEST else None
        head = replace(head, media_type=media_type or head.media_type, start=start, length=length)
        return UsableAnswer(head, None if self._pull.head else body[start : start + length])

    def _head(self, answer: PeerAnswer, peer: Peer) -> RelayHead:
        """Return the head for the client. Raises PeerError to refuse the answer, RangeInvalid."""
        if answer.start is None:
            raise unsatisfiable(answer.size)
        if self._pull.kind is Kind.MANIFEST and answer.size > MAX_MANIFEST:
            raise PeerRefused(f"a manifest of {answer.size} bytes", status=200)
        if self._pull.kind is Kind.MANIFEST and answer.media_type is None:
            # containerd would ask for it as a blob
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
            age=self._state.tag_age(answer.digest, answer, peer),
            seen=answer.seen,
        )
