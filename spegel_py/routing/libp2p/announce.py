"""The announce protocol on its streams: telling one peer what is held here, and hearing what a peer holds.

A node keeps one stream to every peer, over which its set and then its changes go, and a refresh every interval. The
refresh carries a checksum; a receiver that is out of step asks for the whole set again, so that nothing that was lost
stays lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import compat, frames
from spegel_py.routing.libp2p.frames import (
    Ages,
    Delta,
    Frame,
    FrameError,
    Goodbye,
    Hello,
    Refresh,
    Resync,
    SetPart,
)
from spegel_py.routing.libp2p.location import names_nobody
from spegel_py.routing.libp2p.records import TTL_FACTOR, RecordTable
from spegel_py.routing.libp2p.sharing import LocalKeys, PeerSyncState
from spegel_py.routing.libp2p.streams import MessageReader, finish

PROTOCOL = TProtocol(frames.PROTOCOL)
WRITE_TIMEOUT = 10.0
"""Seconds for writing one frame: a peer that does not read for so long is left to the liveness rules."""
TOGETHER = 16 * 1024
"""Bytes of frames that are written at once: the parts of a large set leave others' frames their turn."""
_HEAD = 4

Carried = Callable[[Literal["sent", "received"], str, int], None]
"""Is told of every frame: which way it went, its kind and its bytes. It is called on the Trio thread."""


class AnnounceContext(Protocol):
    """What a link needs to know of its node; all of it changes while the link runs."""

    @property
    def hello(self) -> Hello: ...

    def part_for(self, peer: ID) -> Collection[bytes] | None:
        """The keys the peer should hold, None for all."""
        ...

    def proof_for(self, peer: ID) -> str:
        """The proof for this peer that the node knows the cluster's password, empty without one."""
        ...

    @property
    def news(self) -> trio.Event:
        """Set (and replaced by a fresh one) when there may be something new to tell."""
        ...


class AnnounceReceiver:
    """Hears peers' announcements into the record table.

    `address_of` gives the IP address at which a connected peer is known to be; `claims` is told of another one that
    the peer names itself. `knows_password` checks a peer's proof.
    """

    def __init__(
        self,
        *,
        table: RecordTable,
        clock: Callable[[], float],
        address_of: Callable[[ID], str | None],
        claims: Callable[[ID, str], None],
        knows_password: Callable[[ID, str], bool],
        dropped: Callable[[str], None],
        left: Callable[[ID], None],
        carried: Carried,
    ) -> None:
        self._table = table
        self._clock = clock
        self._address_of = address_of
        self._claims = claims
        self._knows_password = knows_password
        self._dropped = dropped
        self._left = left
        self._carried = carried

    async def handle(self, stream: INetStream) -> None:
        """Hear one stream to its end. Malformed frames are counted and end this stream only."""
        peer = stream.muxed_conn.peer_id
        if self._address_of(peer) is None:  # the connection went away under the stream
            await stream.reset()
            return
        self._table.peer_connected(str(peer))
        reader = MessageReader(stream)
        timeout = frames.MAX_INTERVAL
        try:
            while True:
                with trio.fail_after(timeout):
                    frame = await _read_frame(reader, self._carried)
                reader.begin()
                if isinstance(frame, Hello):
                    # A silent peer is hidden after two intervals and given up by its node; this only frees the task.
                    timeout = 10 * TTL_FACTOR * frame.interval
                await self._apply(frame, peer, stream)
        except trio.TooSlowError:
            await stream.reset()
        except FrameError as error:
            self._dropped(error.reason)
            await stream.reset()
        except StreamError:
            if reader.is_within:
                self._dropped("half-frame")
            await stream.close()

    async def _apply(self, frame: Frame, peer: ID, stream: INetStream) -> None:
        name, now = str(peer), self._clock()
        match frame:
            case Hello():
                self._hello(peer, frame)
            case SetPart() | Delta() | Ages():
                self._record(name, frame, now)
            case Refresh(count, check):
                if not self._table.in_step(name, count=count, check=check):
                    await _write(stream, [Resync()], self._carried)
            case Goodbye():
                self._left(peer)
                return
            case Resync():
                raise FrameError("unknown kind: a resync from a sender")
        self._table.heard(name, now)

    def _record(self, name: str, frame: SetPart | Delta | Ages, now: float) -> None:
        match frame:
            case SetPart(keys, first, last, complete):
                self._count_over(self._table.stage(name, keys, first=first))
                if last:
                    self._table.commit(name, complete=complete)
            case Delta(True, keys):
                self._count_over(self._table.add(name, keys))
            case Delta(False, keys):
                self._table.remove(name, keys)
            case Ages(ages):
                self._table.aged(name, ages, now)

    def _hello(self, peer: ID, hello: Hello) -> None:
        at = self._address_of(peer)
        if at is None:  # the connection went away under the frame
            return
        self._table.hello(
            str(peer),
            Peer(str(peer), at, hello.port, knows_password=self._knows_password(peer, hello.proof)),
            interval=hello.interval,
            now=self._clock(),
            agent=hello.agent,
            skew=None if hello.time is None else hello.time - time.time(),
            shares=hello.shares,
        )
        if hello.host != at and not names_nobody(hello.host, at):
            self._claims(peer, hello.host)

    def _count_over(self, over: int) -> None:
        if over:
            self._dropped("too-many-keys")


class AnnounceStream:
    """Keeps one peer up to date about what is held here."""

    def __init__(
        self,
        *,
        host: BasicHost,
        peer: ID,
        local: LocalKeys,
        situation: AnnounceContext,
        carried: Carried,
    ) -> None:
        self._host = host
        self._peer = peer
        self._local = local
        self._situation = situation
        self._carried = carried
        self._share = PeerSyncState()
        self._told: Hello | None = None
        self._waiting = trio.CancelScope()

    async def run(self) -> None:
        """Tell until the stream breaks (raises) or this task is cancelled."""
        stream = await self._host.new_stream(self._peer, [PROTOCOL])
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, stream)
                await self._tell(stream)
        except BaseException:
            with compat.shielded(1):
                await stream.reset()
            raise

    async def _tell(self, stream: INetStream) -> None:
        spoken = -math.inf
        while True:
            news = self._situation.news
            frames_due: list[Frame] = []
            hello = self._situation.hello
            if hello != self._told:
                self._told = hello
                frames_due = [
                    replace(hello, time=time.time(), proof=self._situation.proof_for(self._peer))
                ]
            part = self._situation.part_for(self._peer)
            frames_due += self._share.next_frames(self._local, part, time.monotonic())
            if not frames_due and trio.current_time() >= spoken + hello.interval:
                frames_due = [self._share.refresh()]
            if frames_due:
                await _write(stream, frames_due, self._carried)
                spoken = trio.current_time()
            # News that are none for this peer must not put the refresh off: others would take us for dead.
            with trio.move_on_at(spoken + hello.interval) as self._waiting:
                await news.wait()

    async def _hear(self, stream: INetStream) -> None:
        reader, heard = MessageReader(stream), -math.inf
        while True:
            frame = await _read_frame(reader, self._carried)
            if not isinstance(frame, Resync):
                raise FrameError("only a resync comes back")
            # A peer asks at a refresh, so once in an interval; five bytes more often would cost a whole set each time.
            if (now := trio.current_time()) < heard + self._situation.hello.interval / 2:
                continue
            heard = now
            self._share.restart()
            self._told = (
                None  # a peer that let go of this node in between has forgotten its hello too
            )
            self._waiting.cancel()


async def say_goodbye(host: BasicHost, peer: ID, carried: Carried) -> None:
    """Tell one peer that this node leaves, and return once it has heard that: a connection that ends meanwhile takes
    with it what was not read yet. Whatever fails is left to the peer's own liveness rules."""
    stream = await host.new_stream(peer, [PROTOCOL])
    await _write(stream, [Goodbye()], carried)
    await finish(stream)


async def _write(stream: INetStream, due: Sequence[Frame], carried: Carried) -> None:
    """Write frames: small ones together, since what they cost is the write."""
    encoded = [frames.encode(frame) for frame in due]
    together = b"".join(encoded)
    for data in [together] if len(together) <= TOGETHER else encoded:
        with trio.fail_after(WRITE_TIMEOUT):
            await stream.write(data)
    for frame, data in zip(due, encoded, strict=True):
        carried("sent", frames.name(frame), len(data))


async def _read_frame(reader: MessageReader, carried: Carried) -> Frame:
    length = frames.frame_length(await reader.read_exactly(_HEAD))
    frame = frames.decode(await reader.read_exactly(length))
    carried("received", frames.name(frame), _HEAD + length)
    return frame
