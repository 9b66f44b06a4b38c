"""The ports through which bytes flow: an Upstream opens content at a peer, a Sink takes it for a client.

Bodies are handed over whole (`send`), not piece by piece, so that an implementation may let the kernel move
them: into the socket that a Sink lends.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from spegel_py.errors import SpegelError
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.transfer.pace import FLOORS


class ClientGone(SpegelError):
    """The client left, or stopped reading for longer than its deadline: nobody else's fault."""


MIN_RATE = 32 * 1024
"""Bytes per second that a peer must reach while it is waited for: below it, upstream is the better source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each wait may last, in seconds: a runtime waits for its mirror for ever."""

    resolve: float = 0.2
    """For the next peer to come out of a lookup. Records are held by this node or one hop away (10 ms, 30 ms on a
    busy node); what takes longer costs every pull of content nobody has, so it is short."""

    connect: float = 0.5
    """For a TCP connection: a round trip in the cluster is below 5 ms, and a lost SYN is sent again only
    after 1 s, when another peer would long have answered."""

    first_byte: float = 2.0
    """From the connection to the head of the answer: the peer looks at its daemon and its disk, which take
    milliseconds, but seconds on a node under memory pressure."""

    stall: float = 3.0
    """Without a single byte in mid-body: longer than TCP's first retransmissions (0.2 + 0.4 + 0.8 s), so
    that a lossy link is not a dead one."""

    min_rate: int = MIN_RATE
    """What the stall deadline does not see: a peer that trickles."""

    rate_window: float = 5.0
    """Seconds of waiting over which `min_rate` is measured; a pause shorter than `stall` fits into it."""

    floors: tuple[tuple[float, int], ...] = FLOORS
    """What a peer must reach after how long, while much of the body is still to come."""

    manifest: float = 3.0
    """For a manifest, or any HEAD, from the lookup to the last byte, all peers included (as Spegel)."""

    blob: float = 10.0
    """For a blob, from the lookup to the first byte passed on, all peers included: four peers that connect
    and then do not answer."""

    client: float = 60.0
    """For a client to take one piece of the body; then it is cut off: it holds a file and a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRequest:
    """What is asked of a peer; an answer with another `digest` or `size` than those given is refused, and one that
    says that it is older than `max_age` seconds. `stall` is of a peer that waits for the content itself: for how many
    seconds it may be silent, before its answer and in mid-body. `trace` are the headers that make the peer's span a
    child of ours.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAnswer:
    """The checked head of a peer's answer: `length` bytes from `start` on, out of content of `size` bytes.

    A range that lies outside the content is an answer too: `start` is None then, and no bytes follow. `age` is how
    many seconds ago the peer, or who told it, saw the tag at its registry; None where it does not say (Spegel in Go).
    `source` is the id of the peer that it takes the content from itself, while it does.
    """

    media_type: str | None
    digest: Digest | None
    size: int
    start: int | None
    length: int
    age: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ClientWaits:
    """Waits for a client, written as a whole, since threads read it while another one waits.

    `seconds` are those of the waits that are over; `since` is the monotonic time since which the
    client is being waited for, None while it is not.
    """

    seconds: float = 0.0
    since: float | None = None

    def at(self, now: float) -> float:
        """Return the seconds for which the client was waited for until now."""
        return self.seconds + (max(0.0, now - self.since) if self.since is not None else 0.0)

    def began(self, now: float) -> ClientWaits:
        """Return this with a wait that begins."""
        return ClientWaits(self.at(now), now)

    def ended(self, now: float) -> ClientWaits:
        """Return this with its wait over."""
        return ClientWaits(self.at(now))


@dataclass(slots=True, kw_only=True)
class Loan:
    """A client's socket while it is lent: whoever moves bytes into it counts them in `moved` at once.

    It does not block, and is not to be closed. The client may take nothing for `patience` seconds. Where there is a
    `tap` it is given all that is moved, in order, in whatever thread that is; `most` bytes may be moved.
    `waits` counts the seconds for which the client was waited for.
    """

    fd: int
    patience: float
    moved: int = 0
    waits: ClientWaits = ClientWaits()
    tap: Callable[[memoryview], object] | None = None
    most: int = sys.maxsize


class Sink(Protocol):
    """The body of one answer to a client, being sent."""

    @property
    def sent(self) -> int:
        """How many bytes of the body were taken so far."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a piece, waiting while the client reads slowly. Raises ClientGone."""
        ...

    def lend(self) -> AbstractAsyncContextManager[Loan | None]:
        """Lend the client's socket, with everything sent that was written before; until it is given back nothing
        may be written here. None where bytes can only be written, as over TLS. Raises ClientGone."""
        return nullcontext()


class UpstreamResponse(Protocol):
    """A peer's answer under way. Either method may be called once."""

    @property
    def answer(self) -> PeerAnswer: ...

    @property
    def waited(self) -> float:
        """For how many seconds of the body so far the peer was waited for, rather than the client."""
        ...

    async def read(self) -> bytes:
        """Return the whole body, which is to be small. Raises PeerError."""
        ...

    async def send(self, sink: Sink) -> None:
        """Pass the whole body on. Raises PeerError if the peer breaks off, stalls or trickles; `sink.sent`
        then says how far it came. Raises ClientGone."""
        ...


class Upstream(Protocol):
    """Opens content at peers."""

    def open(
        self, peer: Peer, request: PeerRequest
    ) -> AbstractAsyncContextManager[UpstreamResponse]:
        """Ask `peer`, and give its answer once its head is there and is what was asked for.

        Raises PeerUnreachable, PeerStalled, PeerRefused or DigestMismatch, all within connect + first_byte
        seconds. Leaving the context before the end of the body hangs up on the peer at once.
        """
        ...
