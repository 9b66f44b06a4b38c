"""The rest of a body from several peers in parallel, where a single peer is the bottleneck.

A parallel download costs several times the CPU of passing one body on, so it is for slow peers.
Where the client is slow, the window of pieces fills and no peer is asked for more.

Pieces are small and many, so a single peer that is ten times slower delays the body little: each
peer takes its next piece when it has given the one before. The client gets the pieces in order, so
early pieces are kept in memory; the window bounds their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

from spegel_py.errors import PeerError
from spegel_py.mirror.attempts import Attempt
from spegel_py.mirror.pull_state import PullState
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import Sink

PIECE_SIZE = 512 * 1024
"""Bytes of a piece: 50 ms at 10 MB/s, beside which a round trip of a few ms costs little."""

WINDOW = 24
"""Pieces requested or waiting for an earlier piece, at most: 12 MiB of memory for each transfer."""

DUPLICATE_AFTER = 0.5
"""Seconds after which an idle peer is asked too for the piece that the client waits for.

A peer that needs longer for a piece sends less than 1 MB/s, or nothing.
"""

MIN_REST = 8 * PIECE_SIZE
"""Bytes that must be left for a parallel download.

With less the first peer is done before other peers have begun.
"""


class ParallelDownload:
    """The bytes `first` to `last` of the content, on their way from several peers to a sink."""

    def __init__(self, state: PullState, *, first: int, last: int, size: int, peers: int) -> None:
        self._state = state
        self._pieces = PieceScheduler(first=first, last=last)
        self._first = first
        self._content_size = size
        self._peers = peers
        self._workers: dict[asyncio.Task[None], Attempt] = {}
        self._progress = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ParallelDownload from {len(self._workers)} peers: {self._pieces!r}>"

    async def run(self, sink: Sink) -> None:
        """Send until all bytes were sent or no peer is left.

        Raises ClientGone, and any other error of the sink.
        """
        try:
            while not self._pieces.is_done:
                self._start_workers()
                if (data := self._pieces.pop_data()) is not None:
                    await sink.write(data)
                    self._signal_progress()
                elif self._workers:
                    await self._wait_for_progress()
                else:
                    return
        finally:
            await self._stop_workers()

    def _start_workers(self) -> None:
        """Start a worker for each free peer, up to the limit; with too few peers look up more."""
        for worker in [worker for worker in self._workers if worker.done()]:
            del self._workers[worker]
            worker.result()  # a peer's failure is recorded; anything else is a bug
        candidates, attempts = self._state.candidates, self._state.attempts
        while len(self._workers) < self._peers and (peer := candidates.take()) is not None:
            attempt = attempts.begin(peer, offset=self._first)
            worker = asyncio.create_task(self._download(attempt), name=f"ranges of {peer}")
            self._workers[worker] = attempt
        if len(self._workers) < self._peers:
            candidates.refresh()

    async def _download(self, attempt: Attempt) -> None:
        """Get one piece after the other from a peer, until the peer fails."""
        state = self._state
        try:
            while True:
                piece = self._pieces.take(attempt, state.clock())
                if piece is None:
                    await self._wait_for_progress(DUPLICATE_AFTER / 2)
                    continue
                part = ByteRange(piece.first, piece.last)
                response = await state.attempts.ask(
                    attempt, state.request(part, self._content_size)
                )
                if self._pieces.put(piece, data := await response.read()):
                    attempt.bytes += len(data)
                    self._signal_progress()
        except PeerError as error:
            self._pieces.give_up(attempt)
            await state.attempts.fail(attempt, error)
        finally:
            self._signal_progress()

    def _signal_progress(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _wait_for_progress(self, within: float | None = None) -> None:
        """Wait until data came or went, or a peer failed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._progress.wait()

    async def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)
        for attempt in self._workers.values():
            if attempt.bytes and attempt.outcome is None:
                await self._state.attempts.succeed(attempt)
            await self._state.attempts.abandon(attempt)


@dataclass(frozen=True, slots=True)
class PieceRange:
    """The bytes `first` to `last` of the content, both included."""

    first: int
    last: int


class PieceScheduler:
    """Assigns pieces of the bytes `first` to `last` to peers; returns their data in order. Pure."""

    def __init__(
        self, *, first: int, last: int, piece: int = PIECE_SIZE, window: int = WINDOW
    ) -> None:
        self._last = last
        self._size = piece
        self._window = window
        self._next_byte = first  # the first byte that was not returned yet
        self._next_piece = first  # the first byte that no peer was asked for yet
        self._failed: set[PieceRange] = set()  # requested in vain
        self._requested: dict[PieceRange, dict[Hashable, float]] = {}  # peers asked, and when
        self._ready: dict[int, bytes] = {}  # by first byte

    def __repr__(self) -> str:
        return (
            f"<PieceScheduler at {self._next_byte} of {self._last + 1}: "
            f"{len(self._requested)} requested, {len(self._ready)} ready>"
        )

    @property
    def is_done(self) -> bool:
        """Whether all data was returned."""
        return self._next_byte > self._last

    def take(self, peer: Hashable, now: float) -> PieceRange | None:
        """Return the piece to ask the idle `peer` for, None while there is none.

        Case 1: a piece that another peer failed to give.
        Case 2: the next piece within the window.
        Case 3: the piece that the client waits for, if its peer takes too long.
        """
        piece = self._take_failed() or self._take_next() or self._take_late(peer, now)
        if piece is not None:
            self._requested.setdefault(piece, {})[peer] = now
        return piece

    def put(self, piece: PieceRange, data: bytes) -> bool:
        """Store the data of a piece; return False if another peer gave it before."""
        if self._requested.pop(piece, None) is None:
            return False
        self._ready[piece.first] = data
        return True

    def give_up(self, peer: Hashable) -> None:
        """Let other peers be asked for the pieces that this peer will not give."""
        for piece, peers in list(self._requested.items()):
            peers.pop(peer, None)
            if not peers:
                del self._requested[piece]
                self._failed.add(piece)

    def pop_data(self) -> bytes | None:
        """Return the data that comes next in order, None while it is not there."""
        data = self._ready.pop(self._next_byte, None)
        if data is not None:
            self._next_byte += len(data)
        return data

    def _take_failed(self) -> PieceRange | None:
        if not self._failed:
            return None
        piece = min(self._failed, key=lambda each: each.first)
        self._failed.remove(piece)
        return piece

    def _take_next(self) -> PieceRange | None:
        end = self._next_byte + self._window * self._size
        if self._next_piece > self._last or self._next_piece >= end:
            return None
        piece = PieceRange(self._next_piece, min(self._next_piece + self._size - 1, self._last))
        self._next_piece = piece.last + 1
        return piece

    def _take_late(self, peer: Hashable, now: float) -> PieceRange | None:
        """Return the piece that the client waits for, if its only peer takes too long."""
        for piece, peers in self._requested.items():
            if piece.first == self._next_byte:
                is_late = now - min(peers.values()) >= DUPLICATE_AFTER
                return piece if len(peers) == 1 and peer not in peers and is_late else None
        return None
