"""yamux with fewer tasks, wake-ups and packets per message: traps 20 to 22 and 27 of `compat`.

The state and the rules are py-libp2p's. A connection has one task here that lasts. It reads all
bytes that have come, decrypts them, and handles all frames in them before it waits again. The
frames that the tasks of one turn of the event loop leave are written by a short task, as one
encrypted message: a new stream, its proposal and a request are one packet. A task that is cancelled
leaves no half-written message behind.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import trio
from libp2p.abc import INetStream, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from spegel_py.routing.libp2p.bounds import BoundedStream, PeerExceedsBound
from spegel_py.routing.libp2p.speedups import READ_AHEAD

MOST_WAITING = 64 * 1024
"""Bytes that wait to be written before a task that adds more has to wait too."""
LARGEST_FRAME = yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE
"""Bytes of a stream in one frame."""
ROOM_TIMEOUT = 5.0
"""Seconds that a peer may leave a stream without room for more (py-libp2p's own bound)."""
FRAME_TIMEOUT = 60.0
"""Seconds for the rest of a frame that has begun to come (py-libp2p's own bound)."""
LAST_FRAMES = 0.5
"""Seconds for the frames that wait when a connection is closed."""
MANY_STREAMS = 32
"""Streams of a connection from which on closed ones with unread bytes are looked for."""

_PING_IDS = 1 << 32
_HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)


class _Frame(NamedTuple):
    """A frame that has come; `length` is that of its header, and 0 if it has a body."""

    kind: int
    flags: int
    number: int
    length: int
    body: bytes = b""


def _frame(kind: int, flags: int, stream: int, length: int) -> bytes:
    return _HEADER.pack(0, kind, flags, stream, length)


class LeanStream(BoundedStream):
    """A stream that reads and writes without locks: no step waits while it changes the state."""

    room: trio.Event | None = None
    """Is set when the peer grants more room to a task that waits for it."""
    on_bytes: Callable[[], None] | None = None
    """Is called when bytes or the end of the stream have come."""

    @property
    def has_bytes(self) -> bool:
        """True if a read returns, or raises, at once."""
        connection: Any = self.conn
        return self.recv_closed or bool(connection.stream_buffers.get(self.stream_id, True))

    async def read(self, n: int | None = -1) -> bytes:
        """Return up to `n` bytes, by default all that are there.

        Raises MuxedStreamEOF and MuxedStreamReset at the end.
        """
        connection: Any = self.conn
        while True:
            buffer = connection.stream_buffers.get(self.stream_id)
            if buffer:
                data = bytes(buffer if n is None or n < 0 else buffer[:n])
                del buffer[: len(data)]
                if self.closed and not buffer:
                    connection._finalize_stream_locked(self, fully_closed=True)
                await self._auto_tune_and_send_window_update(bytes_read=len(data))
                return data
            if self.reset_received:
                raise MuxedStreamReset("Stream was reset")
            if buffer is None or self.recv_closed or connection.event_shutting_down.is_set():
                raise MuxedStreamEOF("Stream is closed for receiving")
            await connection.stream_events[self.stream_id].wait()
            if self.stream_id in connection.stream_events:
                connection.stream_events[self.stream_id] = trio.Event()

    async def write(self, data: bytes) -> None:
        """Write all of `data`, as the peer grants room for it. Raises MuxedStreamError."""
        connection = cast("LeanYamux", self.conn)
        while data:
            while self.send_window <= 0 and not (self.closed or self.send_closed):
                await self._wait_for_room()
            if self.closed or self.send_closed:
                raise MuxedStreamError("Stream is closed")
            part = data[: min(self.send_window, LARGEST_FRAME)]
            data = data[len(part) :]
            self.send_window -= len(part)
            await connection._write_frame(
                _frame(yamux.TYPE_DATA, 0, self.stream_id, len(part)) + part
            )

    async def _wait_for_room(self) -> None:
        self.room = self.room or trio.Event()
        with trio.move_on_after(ROOM_TIMEOUT):
            await self.room.wait()
            return
        raise MuxedStreamError(f"no room for more within {ROOM_TIMEOUT} s")

    def grant(self, count: int) -> None:
        """Let this node send so many bytes more."""
        self.send_window += count
        self._wake_writer()

    def wake(self) -> None:
        """Have whoever waits for room, for bytes, or for the end look again."""
        self._wake_writer()
        if self.on_bytes is not None:
            self.on_bytes()

    def _wake_writer(self) -> None:
        if self.room is not None:
            self.room.set()
            self.room = None


def call_on_bytes(stream: INetStream, call: Callable[[], None]) -> None:
    """Have `call` called when bytes or the end of a stream have come; at once if they are there.

    So a stream on which little comes needs no task that waits.
    """
    muxed = cast("LeanStream", cast("Any", stream).muxed_stream)
    muxed.on_bytes = call
    if muxed.has_bytes:
        call()


async def _refuse(stream: LeanStream) -> None:
    await stream.reset()


class LeanYamux(Yamux):
    """A connection with one task that lasts."""

    def __init__(self, secured: ISecureConn, peer: ID, *, is_initiator: bool) -> None:
        super().__init__(secured, peer, is_initiator=is_initiator)
        self._packets = _Packets(secured)
        self._received = bytearray()
        self._dropped = 0  # bytes to come of a frame for a stream that is gone
        self._waiting = bytearray()
        self._written = trio.lowlevel.ParkingLot()
        self._is_open = self._is_writing = self._is_closing = False
        self._is_pinging = False
        self.accepted: Callable[[LeanStream], Awaitable[None]] = _refuse
        """Handles a stream that the peer opens, in a task of its own."""
        self.answered: Callable[[ID], None] = lambda peer: None
        """Is called with the peer for each of its answers to `ping`."""

    async def start(self) -> None:
        """Run the connection until it ends."""
        if self.event_started.is_set():
            return
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._is_open, self._established = nursery, True, True
                self.event_started.set()
                await self.handle_incoming()
        finally:
            self._is_open = False
            self._written.unpark_all()

    async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        """Close the connection, once the waiting frames are written or LAST_FRAMES is over."""
        self._is_closing = True
        streams = self._lean_streams()
        await super().close(error_code)
        for stream in streams:
            stream.wake()

    async def open_stream(self) -> YamuxStream:
        """Open a stream; its first frame goes with the next write. Raises MuxedStreamError."""
        await self.stream_backlog_semaphore.acquire()
        if self.event_shutting_down.is_set() or not self._is_open:
            self.stream_backlog_semaphore.release()
            raise MuxedStreamError("Connection is shutting down")
        stream = LeanStream(self.next_stream_id, self, True)
        self.next_stream_id += 2
        stream._owns_backlog_slot = True
        self._keep(stream)
        await self._write_frame(
            _frame(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_SYN, stream.stream_id, 0)
        )
        return stream

    def ping(self) -> None:
        """Ping the peer, unless its last ping is not answered yet: frames come in order."""
        if self._is_open and not self._is_pinging:
            self._is_pinging = True
            self._ping_id = (self._ping_id + 1) % _PING_IDS
            self._leave(_frame(yamux.TYPE_PING, yamux.FLAG_SYN, 0, self._ping_id))

    # Writing

    async def _write_frame(self, data: bytes) -> None:
        """Leave a frame to be written; wait while too many are. Raises ConnectionClosedError."""
        if not self._is_open:
            raise ConnectionClosedError("the connection is closed", transport="tcp")
        self._leave(data)
        while self._is_open and len(self._waiting) > MOST_WAITING:
            await self._written.park()
        if self._is_closing:
            with trio.move_on_after(LAST_FRAMES):
                while self._is_open and self._is_writing:
                    await self._written.park()

    def _leave(self, frame: bytes) -> None:
        """Leave a frame for the next write, which comes after all other tasks had their turn."""
        self._waiting += frame
        if not self._is_writing and self._nursery is not None:
            self._is_writing = True
            self._nursery.start_soon(self._write_waiting)

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                data = bytes(self._waiting)
                self._waiting.clear()
                await self.secured_conn.write(data)
                self._written.unpark_all()
        except Exception:  # noqa: BLE001 - the connection broke: the reading task ends it
            self._is_open = False
            with suppress(Exception):
                await self.secured_conn.close()
        finally:
            self._is_writing = False
            self._written.unpark_all()

    # Reading

    async def handle_incoming(self) -> None:
        """Handle the peer's frames until the connection ends. A bad frame ends it."""
        try:
            while not self.event_shutting_down.is_set():
                with trio.fail_after(FRAME_TIMEOUT if self._received else math.inf):
                    data = await self._packets.read()
                if not data:
                    break
                self._received += data
                while (frame := self._next_frame()) is not None:
                    await self._handle_frame(frame)
        except Exception:  # noqa: BLE001, S110 - whatever a peer sends ends its connection only
            pass
        self._is_open = False
        streams = self._lean_streams()
        await self._cleanup_on_error()
        for stream in streams:
            stream.wake()

    def _lean_streams(self) -> list[LeanStream]:
        return cast("list[LeanStream]", list(self.streams.values()))

    def _next_frame(self) -> _Frame | None:
        """Take a whole frame from the received bytes, None if none has come.

        Bytes for a stream that is gone are dropped. Raises PeerExceedsBound.
        """
        received = self._received
        while True:
            count = min(self._dropped, len(received))
            del received[:count]
            self._dropped -= count
            if self._dropped or len(received) < _HEADER.size:
                return None
            _, kind, flags, number, length = _HEADER.unpack_from(received)
            if kind != yamux.TYPE_DATA:
                del received[: _HEADER.size]
                return _Frame(kind, flags, number, length)
            is_dropped = number not in self.streams and not flags & yamux.FLAG_SYN
            if length > self._window(number, is_dropped=is_dropped):
                raise PeerExceedsBound(f"{length} bytes are more than the window of {number}")
            if is_dropped:
                del received[: _HEADER.size]
                self._dropped = length
                continue
            end = _HEADER.size + length
            if len(received) < end:
                return None
            body = bytes(received[_HEADER.size : end])
            del received[:end]
            return _Frame(kind, flags, number, 0, body)

    def _window(self, number: int, *, is_dropped: bool) -> int:
        """Return the bytes that the peer may send in one frame of this stream."""
        if is_dropped:
            return yamux.MAX_WINDOW_SIZE
        stream = self.streams.get(number)
        return stream.recv_window if stream else yamux.DEFAULT_WINDOW_SIZE

    async def _handle_frame(self, frame: _Frame) -> None:
        if frame.kind == yamux.TYPE_PING:
            if frame.flags & yamux.FLAG_SYN:
                await self._write_frame(_frame(yamux.TYPE_PING, yamux.FLAG_ACK, 0, frame.length))
            elif self._is_pinging and frame.length == self._ping_id:
                self._is_pinging = False
                self.answered(self.peer_id)
        elif frame.kind == yamux.TYPE_GO_AWAY:
            self.event_shutting_down.set()
        elif frame.kind in (yamux.TYPE_DATA, yamux.TYPE_WINDOW_UPDATE):
            if frame.flags & yamux.FLAG_SYN:
                await self._accept(frame)
            elif (stream := self.streams.get(frame.number)) is not None:
                self._apply(frame, cast("LeanStream", stream))

    async def _accept(self, frame: _Frame) -> None:
        """Open the stream that the peer opens, unless it uses a number twice."""
        kind = yamux.TYPE_WINDOW_UPDATE
        if frame.number in self.streams:
            await self._write_frame(_frame(kind, yamux.FLAG_RST, frame.number, 0))
            return
        stream = LeanStream(frame.number, self, False)
        self._keep(stream)
        self._apply(frame, stream)
        if not stream.reset_received:
            await self._write_frame(_frame(kind, yamux.FLAG_ACK, frame.number, 0))
        if self._nursery is not None:
            self._nursery.start_soon(self.accepted, stream)

    def _apply(self, frame: _Frame, stream: LeanStream) -> None:
        """Apply a frame to its stream: bytes, room for some, or an end."""
        if frame.body:
            self.stream_buffers[frame.number] += frame.body
            stream.recv_window -= len(frame.body)
        if frame.flags & yamux.FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.closed or stream.send_closed
        if frame.flags & yamux.FLAG_RST:
            stream.closed = stream.reset_received = True
        stream.grant(frame.length)
        if frame.body or frame.flags & (yamux.FLAG_FIN | yamux.FLAG_RST):
            self.stream_events[frame.number].set()
            stream.wake()
        if stream.closed:
            self._finalize_stream_locked(stream, fully_closed=True)

    def _keep(self, stream: LeanStream) -> None:
        if len(self.streams) >= MANY_STREAMS:
            self._sweep_stale_streams()
        self.streams[stream.stream_id] = stream
        self.stream_buffers[stream.stream_id] = bytearray()
        self.stream_events[stream.stream_id] = trio.Event()


class _Packets:
    """Reads and decrypts the Noise messages of a connection: all that have come at once."""

    def __init__(self, secured: ISecureConn) -> None:
        session: Any = secured
        self._session = session
        self._raw = session.conn.read_writer.read_write_closer
        self._decrypt = session.conn.noise_state.decrypt
        self._encrypted = bytearray()

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end of the connection."""
        if ahead := self._session._drain(None):  # read during the handshake
            return bytes(ahead)
        while not (data := b"".join(self._decrypted())):
            encrypted = await self._raw.read(READ_AHEAD)
            if not encrypted:
                return b""
            self._encrypted += encrypted
        return data

    def _decrypted(self) -> list[bytes]:
        found, taken, encrypted = [], 0, self._encrypted
        while len(encrypted) >= taken + 2:
            length = int.from_bytes(encrypted[taken : taken + 2], "big")
            if len(encrypted) < taken + 2 + length:
                break
            found.append(self._decrypt(bytes(encrypted[taken + 2 : taken + 2 + length])))
            taken += 2 + length
        del encrypted[:taken]
        return found
