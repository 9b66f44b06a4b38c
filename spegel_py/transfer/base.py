"""The ports for bytes: an Upstream opens content at a peer, a Sink takes it for a client.

A body is handed over whole (`send`), not piece by piece. So an implementation may let the kernel
move it into the client's socket, which the Sink leases.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Protocol

from spegel_py.errors import SpegelError
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.transfer.rates import FLOORS


class ClientGone(SpegelError):
    """The client left, or stopped reading for longer than its deadline: nobody else's fault."""


MIN_RATE = 32 * 1024
"""Bytes per second that a peer must send while it is waited for: below it, upstream is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The longest time of each wait, in seconds: a runtime waits for its mirror for ever."""

    resolve: float = 0.2
    """Wait for the next peer of a lookup.

    Records are held by this node or one hop away (10 ms, 30 ms on a busy node). A longer wait costs
    every pull of content that no node has, so it is short.
    """

    connect: float = 0.5
    """Wait for a TCP connection.

    A round trip in the cluster is below 5 ms. A lost SYN is sent again only after 1 s, when another
    peer would have answered long ago.
    """

    first_byte: float = 2.0
    """Wait from the connection to the head of the answer.

    The peer asks its daemon and its disk. That takes milliseconds, but seconds on a node under
    memory pressure.
    """

    stall: float = 3.0
    """Wait for a single byte in mid-body.

    This is longer than TCP's first retransmissions (0.2 + 0.4 + 0.8 s), so that a lossy link does
    not count as a dead one.
    """

    min_rate: int = MIN_RATE
    """Bytes per second of the slowest peer: a trickle does not miss the stall deadline."""

    rate_window: float = 5.0
    """Wait over which `min_rate` is measured; a pause shorter than `stall` fits into it."""

    floors: tuple[tuple[float, int], ...] = FLOORS
    """Rates that a peer must reach after longer waits, while much of the body is still to come."""

    manifest: float = 3.0
    """Time for a manifest, or any HEAD, from the lookup to the last byte, all peers included.

    Spegel has the same deadline.
    """

    blob: float = 10.0
    """Time from a blob's lookup to the first byte for the client, all peers included.

    It is enough for four peers that connect and then do not answer.
    """

    client: float = 60.0
    """Wait for a client to take one piece of the body.

    Then the client is disconnected, since it occupies a file and a peer.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRequest:
    """A request to a peer.

    Args:
        target: path and query.
        head: True for a HEAD.
        accept: values of the Accept header.
        range: the part of the content, None for the whole content.
        digest: the content's digest; an answer with another digest is refused.
        size: the content's size in bytes; an answer with another size is refused.
        max_age: seconds; an answer that reports a greater age is refused.
        stall: seconds for which a peer may be silent, before its answer and in mid-body, that
            still waits for the content itself.
        trace: headers that make the peer's span a child of ours.
        is_background: True if the peer may let other transfers go first.
    """

    target: str
    head: bool = False
    accept: tuple[str, ...] = ()
    range: ByteRange | None = None
    digest: Digest | None = None
    size: int | None = None
    max_age: float = math.inf
    stall: float | None = None
    trace: Mapping[str, str] = field(default_factory=dict)
    is_background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnswer:
    """The checked head of a peer's answer.

    A range outside the content is an answer too: `start` is None then, and no bytes follow.

    Args:
        media_type: the Content-Type.
        digest: the content's digest.
        size: bytes of the content.
        start: byte of the content at which the body starts.
        length: bytes of the body.
        age: seconds since the tag was seen at its registry, None if unknown (Spegel in Go).
        source: id of the peer's own parent, while the peer is still getting the content.
        seen: the observation of the tag as it came, not verified; None if there is none.
    """

    media_type: str | None
    digest: Digest | None
    size: int
    start: int | None
    length: int
    age: int | None = None
    source: str | None = None
    seen: str | None = None


@dataclass(frozen=True, slots=True)
class ClientWaits:
    """The waits for a client; replaced as a whole, since one thread waits while other threads read.

    `seconds` is the sum of the finished waits. `since` is the monotonic time when the current wait
    began, None without one.
    """

    seconds: float = 0.0
    since: float | None = None

    def at(self, now: float) -> float:
        """Return the seconds of waiting for the client until now."""
        return self.seconds + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def began(self, now: float) -> ClientWaits:
        """Return these waits with a wait that begins."""
        return ClientWaits(self.at(now), now)

    def ended(self, now: float) -> ClientWaits:
        """Return these waits with the current one finished."""
        return ClientWaits(self.at(now))


Seal = Callable[[memoryview], bytes]
"""Encrypts bytes. Raises OSError if the connection is closed."""


@dataclass(slots=True, kw_only=True)
class SocketLease:
    """A client's socket while a body is moved into it.

    The socket does not block, and must not be closed.

    Args:
        fd: descriptor of the socket.
        timeout: seconds for which the client may take no byte.
        moved: bytes moved so far, counted at once.
        waits: waits for the client.
        observer: called with all bytes that are moved, in order, in the moving thread.
        max_bytes: bytes that may be moved.
        seal: encrypts bytes, which then have to reach the client; None without TLS.
        sealed: encrypted bytes that the socket has not taken yet.
    """

    fd: int
    timeout: float
    moved: int = 0
    waits: ClientWaits = ClientWaits()
    observer: Callable[[memoryview], object] | None = None
    max_bytes: int = sys.maxsize
    seal: Seal | None = None
    sealed: memoryview = field(default_factory=lambda: memoryview(b""))

    def write(self, data: memoryview) -> int:
        """Write some of the bytes, and return how many were taken.

        Sealed bytes count as taken: those that the socket has no room for are sent before all
        others. Raises BlockingIOError if none were taken, and OSError.
        """
        if self.seal is None:
            return os.write(self.fd, data)
        self._send_sealed()
        self.sealed = memoryview(self.seal(data))
        with suppress(BlockingIOError):
            self._send_sealed()
        return len(data)

    def _send_sealed(self) -> None:
        while self.sealed:
            self.sealed = self.sealed[os.write(self.fd, self.sealed) :]


class Sink(Protocol):
    """The body of one answer to a client, being sent."""

    @property
    def sent(self) -> int:
        """Bytes of the body that were taken so far."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a piece, waiting while the client reads slowly. Raises ClientGone."""
        ...

    def lease(self) -> AbstractAsyncContextManager[SocketLease | None]:
        """Lease the client's socket, after everything written before was sent.

        Nothing may be written until the lease ends. It is None where bytes can only be written.
        Raises ClientGone.
        """
        return nullcontext()


class UpstreamResponse(Protocol):
    """A peer's answer under way. One of `read` and `send` may be called, once."""

    @property
    def answer(self) -> PeerAnswer: ...

    @property
    def waited(self) -> float:
        """Seconds of the body so far in which the peer was waited for, not the client."""
        ...

    async def read(self) -> bytes:
        """Return the whole body, which must be small. Raises PeerError."""
        ...

    async def send(self, sink: Sink) -> None:
        """Send the whole body to a sink.

        Raises PeerError if the peer breaks off, stalls or trickles; `sink.sent` is then the
        position that was reached. Raises ClientGone.
        """
        ...


class Upstream(Protocol):
    """Opens content at peers."""

    def open(
        self, peer: Peer, request: PeerRequest
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Ask `peer`, and give its answer once its head has come and fits the request.

        Raises PeerUnreachable, PeerStalled, PeerRefused or DigestMismatch, all within connect +
        first_byte seconds. Leaving the context before the end of the body hangs up on the peer at
        once.
        """
        ...
