"""The announce protocol on its streams: announcing the local keys, and receiving a peer's keys.

A node keeps one stream to every peer. It sends its whole set first, then changes, and a refresh
every interval. The refresh carries a checksum: a receiver that is out of step asks for the whole
set again, so that a lost change does not stay lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import closing, frames
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
from spegel_py.routing.libp2p.lean_yamux import call_on_bytes
from spegel_py.routing.libp2p.location import is_unusable
from spegel_py.routing.libp2p.peer_records import TTL_FACTOR
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.routing.libp2p.sharing import AnnounceContext, PeerSyncState
from spegel_py.routing.libp2p.streams import MessageReader, finish

PROTOCOL = TProtocol(frames.PROTOCOL)
WRITE_TIMEOUT = 10.0
"""Seconds for writing one frame. A peer that does not read for so long is left to the rules of
liveness."""
FRAME_TIMEOUT = 10.0
"""Seconds for the rest of a frame that has begun to come."""
TOGETHER = 16 * 1024
"""Bytes of frames written at once: between the parts of a large set, other streams get their
turn."""
_HEAD = 4

Carried = Callable[[Literal["sent", "received"], str, int], None]
"""Counts a frame by direction, kind and bytes. It is called on the Trio thread."""


class AnnounceReceiver:
    """Receives peers' announcements and records them in the table.

    Args:
        address_of: returns the proven IP address of a connected peer.
        claims: is called with a different address that a peer claims itself.
        knows_password: checks a peer's proof.
        dropped: counts refused input, by reason.
        left: is called with a peer that says goodbye.
        pings: is called with a peer that says hello, and whether it watches others by pings.
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
        pings: Callable[[ID, bool], None] = lambda peer, does: None,
    ) -> None:
        self._pings = pings
        self._table = table
        self._clock = clock
        self._address_of = address_of
        self._claims = claims
        self._knows_password = knows_password
        self._dropped = dropped
        self._left = left
        self._carried = carried

    async def handle(self, stream: INetStream) -> None:
        """Receive one stream to its end. A malformed frame is counted and ends this stream only."""
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
                    # The mesh drops a silent peer after two intervals; this timeout only frees the
                    # task.
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
                self._count_dropped(self._table.stage(name, keys, first=first))
                if last:
                    self._table.commit(name, complete=complete)
            case Delta(True, keys):
                self._count_dropped(self._table.add(name, keys))
            case Delta(False, keys):
                self._table.remove(name, keys)
            case Ages(ages):
                self._table.record_ages(name, ages, now)

    def _hello(self, peer: ID, hello: Hello) -> None:
        at = self._address_of(peer)
        if at is None:  # the connection went away under the frame
            return
        self._table.hello(
            str(peer),
            Peer(
                str(peer),
                at,
                hello.port,
                knows_password=self._knows_password(peer, hello.proof),
                zone=hello.zone,
                has_tls=hello.tls,
            ),
            interval=hello.interval,
            now=self._clock(),
            agent=hello.agent,
            skew=None if hello.time is None else hello.time - time.time(),
            shares=hello.shares,
            floor=hello.floor,
            http_key=hello.http_key,
        )
        self._pings(peer, hello.pings)
        if hello.host != at and not is_unusable(hello.host, at):
            self._claims(peer, hello.host)

    def _count_dropped(self, over: int) -> None:
        if over:
            self._dropped("too-many-keys")


class AnnounceStream:
    """Keeps one peer up to date about the local keys.

    Args:
        pings_too: returns True once the peer is known to watch others by pings: then refreshes are
            no heartbeats, and are sent rarely.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        peer: ID,
        context: AnnounceContext,
        carried: Carried,
        pings_too: Callable[[], bool] = lambda: False,
    ) -> None:
        self._host = host
        self._pings_too = pings_too
        self._peer = peer
        self._context = context
        self._carried = carried
        self._state = PeerSyncState()
        self._sent_hello: tuple[Hello, int] | None = None  # with the hour of its key
        self._heard_resync = -math.inf
        self._has_bytes = self._is_woken = False
        self._pause = trio.CancelScope()

    async def run(self) -> None:
        """Announce until the stream breaks (raises) or this task is cancelled."""
        stream = await self._host.new_stream(self._peer, [PROTOCOL])
        try:
            call_on_bytes(stream, self._bytes_came)
            await self._send(stream)
        except BaseException:
            with closing.shielded(1):
                await stream.reset()
            raise

    def wake(self) -> None:
        """Announce at once what is new for this peer alone, such as another hello."""
        self._is_woken = True
        self._pause.cancel()

    def _bytes_came(self) -> None:
        self._has_bytes = True
        self._pause.cancel()

    async def _send(self, stream: INetStream) -> None:
        refresh_at, reader = -math.inf, MessageReader(stream)
        while True:
            if self._has_bytes:
                self._has_bytes = False
                await self._receive(reader)
            self._is_woken, news = False, self._context.news
            frames_due: list[Frame] = []
            hello = self._context.hello_for(pings_too=self._pings_too())
            if (told := (hello, self._context.key_hour)) != self._sent_hello:
                self._sent_hello = told
                frames_due = [
                    replace(
                        hello,
                        time=time.time(),
                        proof=self._context.proof_for(self._peer),
                        http_key=self._context.key_for(self._peer),
                    )
                ]
            part = self._context.part_for(self._peer)
            changes = self._state.next_frames(self._context.local, part, time.monotonic())
            if not changes and trio.current_time() >= refresh_at:
                changes = [self._state.refresh()]
                refresh_at = trio.current_time() + hello.interval
            elif changes:
                # The first refresh after a change comes soon, to show a change that got lost.
                refresh_at = trio.current_time() + self._context.hello.interval
            if frames_due or changes:
                await _write(stream, frames_due + changes, self._carried)
            # News that do not concern this peer must not delay the refresh: an older version would
            # take us for dead.
            with trio.move_on_at(refresh_at) as self._pause:
                if not (self._has_bytes or self._is_woken):
                    await news.wait()

    async def _receive(self, reader: MessageReader) -> None:
        """Receive the frames that have come, the last one to its end."""
        reader.begin()
        with trio.fail_after(FRAME_TIMEOUT):
            while True:
                frame = await _read_frame(reader, self._carried)
                if not isinstance(frame, Resync):
                    raise FrameError("only a resync comes back")
                self._resync(trio.current_time())
                reader.begin()
                if not reader.is_within:
                    return

    def _resync(self, now: float) -> None:
        # A peer asks at a refresh, so once in an interval. More often, five bytes would cost a
        # whole set each time.
        if now >= self._heard_resync + self._context.hello.interval / 2:
            self._heard_resync = now
            self._state.restart()
            self._sent_hello = None  # a peer that dropped this node has forgotten its hello too


async def say_goodbye(host: BasicHost, peer: ID, carried: Carried) -> None:
    """Send one peer a goodbye, and return once the peer has read it.

    A connection that is closed earlier would lose the unread goodbye. An error is left to the
    peer's own rules of liveness.
    """
    stream = await host.new_stream(peer, [PROTOCOL])
    await _write(stream, [Goodbye()], carried)
    await finish(stream)


async def _write(stream: INetStream, due: Sequence[Frame], carried: Carried) -> None:
    """Write frames: small ones together, since each write has a fixed cost.

    A large frame is encoded once its turn comes. A whole set for each of a hundred slow peers would
    take a hundred times as much memory otherwise.
    """
    batch: list[tuple[Frame, bytes]] = []
    for frame in due:
        data = frames.encode(frame)
        if batch and sum(len(each) for _, each in batch) + len(data) > TOGETHER:
            await _write_batch(stream, batch, carried)
            batch = []
        batch.append((frame, data))
    await _write_batch(stream, batch, carried)


async def _write_batch(
    stream: INetStream, batch: Sequence[tuple[Frame, bytes]], carried: Carried
) -> None:
    with trio.fail_after(WRITE_TIMEOUT):
        await stream.write(b"".join(data for _, data in batch))
    for frame, data in batch:
        carried("sent", frames.name(frame), len(data))


async def _read_frame(reader: MessageReader, carried: Carried) -> Frame:
    length = frames.frame_length(await reader.read_exactly(_HEAD))
    frame = frames.decode(await reader.read_exactly(length))
    carried("received", frames.name(frame), _HEAD + length)
    return frame
