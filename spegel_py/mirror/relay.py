"""One pull through peers: the first that answers gives the head, the body goes on at the next where one
breaks.

Log events, which tools read: `relay started` (digest, name, kind, method, peer, addr, offset), `relay
continued` (the same, from another peer), `peer failed` (key, peer, addr, error, outcome, offset), and at the
end `relay finished` (digest, name, kind, method, total, outcome, attempts) or, where no peer gave a first
byte, `relay missed` (the same without total). `attempts` is a list of {peer, addr, offset, bytes, ms,
outcome}, in order.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

import structlog

from spegel_py.errors import DigestMismatch, PeerError, PeerRefused, RangeInvalid
from spegel_py.mirror.attempts import Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.manifest import MAX_MANIFEST, detect
from spegel_py.oci.range import ByteRange, unsatisfiable
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest, Sink, UpstreamResponse

log = structlog.get_logger(__name__)

VERIFIED = 4 * 1024 * 1024
"""Blobs up to this many bytes, and all manifests, are verified before their first byte is sent: it takes
about 3 ms and saves the pull, which wrong bytes end. Larger ones are verified by the runtime alone."""


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


class Relay:
    """The answer of peers to one request. Mirror.fetch opens and closes it; `head` is known once it is open."""

    head: RelayHead

    def __init__(
        self, *, pull: PullRequest, candidates: Candidates, attempts: Attempts, max_age: float = math.inf
    ) -> None:
        self._pull = pull
        self._max_age = max_age
        self._candidates = candidates
        self._attempts = attempts
        self._body: bytes | None = None
        self._response: UpstreamResponse | None = None
        self._sink: Sink | None = None
        self._leg_start = 0  # what had been sent when the peer that sends now took over
        self._is_open = False
        self._outcome = "client_gone"  # until something else is known

    def __repr__(self) -> str:
        return f"<Relay of {self._pull.key}: {self._sent} bytes, {self._outcome}>"

    async def open(self, *, within: float) -> bool:
        """Find a peer that answers; False if there is none in that many seconds.

        Raises RangeInvalid if a peer says that the content is too short.
        """
        try:
            async with asyncio.timeout(within):
                self._is_open = await self._find()
        except TimeoutError:
            self._is_open = False
        if not self._is_open:
            self._outcome = "missed"
            return False
        self._log("relay started", peer=self.head.peer.id, addr=self.head.peer.authority, offset=self.head.start)
        return True

    async def send(self, sink: Sink) -> bool:
        """Send the body; False if it ended short, since no peer is left. Raises ClientGone."""
        self._sink = sink
        if self._body is not None:
            await sink.write(self._body)
        while self._response is not None:
            self._response = await self._pass_on(self._response, sink)
        complete = self._sent == self.head.length
        self._outcome = "complete" if complete else "cut"
        return complete

    async def close(self) -> None:
        """Hang up on a peer that is still sending, and log how it went."""
        await self._attempts.abandon(self._sent - self._leg_start)
        attempts = [attempt.as_log() for attempt in self._attempts.made]
        if self._is_open:
            self._log("relay finished", total=self._sent, outcome=self._outcome, attempts=attempts)
        else:
            self._log("relay missed", outcome=self._outcome, attempts=attempts)

    async def _find(self) -> bool:
        while (peer := await self._candidates.next()) is not None:
            try:
                await self._ask(peer)
            except PeerError:
                continue  # recorded and logged
            return True
        return False

    async def _ask(self, peer: Peer) -> None:
        """Get the head from a peer, and the body too where that is verified first. Raises PeerError, recorded."""
        pull = self._pull
        part = pull.range if pull.kind is Kind.BLOB else None  # a manifest is fetched whole, and cut here
        response = await self._attempts.start(peer, self._request(part))
        try:
            if response.answer.start is None:
                raise unsatisfiable(response.answer.size)
            self.head = _head(pull, response.answer, peer)
            if pull.head:
                self._outcome = "complete"
            elif pull.kind is Kind.MANIFEST or self.head.size <= VERIFIED:
                await self._verify(response)
            else:
                self._attempts.made[-1].offset = self.head.start
                self._response = response
                return
        except PeerError as error:
            await self._attempts.fail(error)
            raise
        except RangeInvalid:
            self._outcome = "range"
            await self._attempts.succeed()
            raise
        await self._attempts.succeed(self.head.length if self._body is not None else 0)

    async def _verify(self, response: UpstreamResponse) -> None:
        """Read all of the content, check it, and keep of it what was asked for."""
        if response.answer.length < response.answer.size:
            response = await self._attempts.ask_again(self._request(None))
        body = await response.read()
        head = self.head
        if len(body) != head.size or not head.digest.matches(body):
            raise DigestMismatch(f"the bytes are not those of {head.digest}")
        start, length = self._pull.range.resolve(head.size) if self._pull.range else (0, head.size)
        media_type = detect(body) if self._pull.kind is Kind.MANIFEST else None
        self._body = body[start : start + length]
        self.head = replace(head, media_type=media_type or head.media_type, start=start, length=length)

    async def _pass_on(self, response: UpstreamResponse, sink: Sink) -> UpstreamResponse | None:
        """Send what one peer gives; return the next one's answer if it broke and another can go on."""
        try:
            await response.send(sink)
        except PeerError as error:
            await self._attempts.fail(error, sink.sent - self._leg_start)
            return await self._continue(sink.sent) if sink.sent < self.head.length else None
        await self._attempts.succeed(sink.sent - self._leg_start)
        return None

    async def _continue(self, sent: int) -> UpstreamResponse | None:
        """Return the answer of a peer that sends exactly what is still missing, None if there is none."""
        self._leg_start = sent
        first, last = self.head.start + sent, self.head.start + self.head.length - 1
        whole = first == 0 and last == self.head.size - 1
        request = self._request(None if whole else ByteRange(first, last), size=self.head.size)
        while (peer := await self._candidates.next()) is not None:
            try:
                response = await self._attempts.start(peer, request, offset=first)
            except PeerError:
                continue  # recorded and logged
            self._log("relay continued", peer=peer.id, addr=peer.authority, offset=first)
            return response
        return None

    def _request(self, part: ByteRange | None, size: int | None = None) -> PeerRequest:
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

    @property
    def _sent(self) -> int:
        return self._sink.sent if self._sink is not None else 0

    def _log(self, event: str, **fields: object) -> None:
        pull = self._pull
        digest = self.head.digest if self._is_open else pull.digest
        log.info(
            event,
            digest=str(digest) if digest else None,
            name=pull.name,
            kind=pull.kind.name.lower(),
            method="HEAD" if pull.head else "GET",
            **fields,
        )


def _head(pull: PullRequest, answer: PeerAnswer, peer: Peer) -> RelayHead:
    """Return what the client is to be told, or refuse the peer's answer."""
    media_type, digest = answer.media_type, answer.digest
    if pull.kind is Kind.MANIFEST and answer.size > MAX_MANIFEST:
        raise PeerRefused(f"a manifest of {answer.size} bytes", status=200)
    if pull.kind is Kind.MANIFEST and media_type is None:  # containerd would ask for it among the blobs
        raise PeerRefused("a manifest without a Content-Type", status=200)
    if digest is None:
        raise PeerRefused("a tag without a Docker-Content-Digest", status=200)
    return RelayHead(
        media_type=media_type or "application/octet-stream",
        digest=digest,
        size=answer.size,
        start=answer.start or 0,
        length=answer.length,
        peer=peer,
        age=answer.age,
    )
