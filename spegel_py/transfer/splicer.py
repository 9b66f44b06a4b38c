"""Bodies of peers, moved into clients' sockets: by the kernel, or copied for an observer.

Meanwhile the event loop checks the speed.
"""

from __future__ import annotations

import os
import socket
import ssl
from abc import abstractmethod
from functools import cache, partial

from spegel_py.errors import PeerUnreachable
from spegel_py.transfer.base import ClientGone, SocketLease
from spegel_py.transfer.mover import Mover
from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.pipes import PIPE_SIZE, Pipe, PipePool
from spegel_py.transfer.stall_detector import StallDetector
from spegel_py.transfer.tls_sockets import receive_into

COPY_SIZE = 64 * 1024
"""Bytes copied at once.

A slow client makes each transfer keep this many, and hashing them takes longer than the system
calls around it.
"""


class Splicer:
    """Owns a mover and the pipes; `close` closes both."""

    def __init__(self) -> None:
        self._mover = Mover(name="splice")
        self._pipes = PipePool()

    def __repr__(self) -> str:
        return f"<Splicer {self._mover!r} {self._pipes!r}>"

    @property
    def load(self) -> int:
        """Number of bodies being moved."""
        return self._mover.load

    async def splice(
        self, peer: socket.socket, length: int, lease: SocketLease, detector: StallDetector
    ) -> None:
        """Move `length` bytes and no more; no byte if no pipe is available.

        Raises PeerUnreachable, PeerStalled and ClientGone.
        """
        if lease.observer or lease.seal or isinstance(peer, ssl.SSLSocket):
            await self._run(Copy(peer=peer, lease=lease, length=length), detector)
            return
        with self._pipes.borrow() as pipe:
            if pipe is not None:
                await self._run(
                    Splice(peer=peer.fileno(), pipe=pipe, lease=lease, length=length), detector
                )

    async def _run(self, move: Move, detector: StallDetector) -> None:
        with detector.watching(move):
            await self._mover.run(move, check=partial(_check, move, detector))

    def close(self) -> None:
        """End all transfers under way, and refuse new ones."""
        self._mover.close()
        self._pipes.close()


def _check(move: Move, detector: StallDetector, now: float) -> float:
    return min(move.check(now), detector.check(now))


class _SocketMove(Move):
    """Bytes of a peer's socket, through a pipe or buffer that is emptied before it takes more.

    Raises PeerUnreachable.
    """

    def __init__(self, *, peer: int, lease: SocketLease, length: int) -> None:
        super().__init__(source=peer, lease=lease, length=length)
        self._peer = peer

    @property
    @abstractmethod
    def _is_empty(self) -> bool:
        """Whether the client got all bytes that were taken."""

    @abstractmethod
    def _take(self) -> int:
        """Take bytes from the peer and return their number, 0 at the end. Raises OSError."""

    @abstractmethod
    def _give(self) -> int:
        """Give the client some of the bytes taken and return their number. Raises OSError."""

    def step(self, *, may_block: bool = False) -> Side | None:
        if self._is_empty and not self._fill():
            return Side.SOURCE
        try:
            count = self._give()
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            raise ClientGone("the client left") from error
        self._moved(count)
        return None

    def _fill(self) -> bool:
        try:
            count = self._take()
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerUnreachable(f"the peer broke off: {error.strerror}") from error
        if not count:
            raise PeerUnreachable("the peer broke off in the middle of the body")
        self.received += count
        return True


class Splice(_SocketMove):
    """Through a pipe, by the kernel alone."""

    def __init__(self, *, peer: int, pipe: Pipe, lease: SocketLease, length: int) -> None:
        super().__init__(peer=peer, lease=lease, length=length)
        self._pipe = pipe

    @property
    def _is_empty(self) -> bool:
        return not self._pipe.held

    def _take(self) -> int:
        most = min(PIPE_SIZE, self.left)
        self._pipe.held = os.splice(self._peer, self._pipe.writer, most, flags=os.SPLICE_F_NONBLOCK)
        return self._pipe.held

    def _give(self) -> int:
        count = os.splice(
            self._pipe.reader, self.lease.fd, self._pipe.held, flags=os.SPLICE_F_NONBLOCK
        )
        self._pipe.held -= count
        return count


class Copy(_SocketMove):
    """Through a buffer: the lease's observer sees each byte once the client got it."""

    def __init__(self, *, peer: socket.socket, lease: SocketLease, length: int) -> None:
        super().__init__(peer=peer.fileno(), lease=lease, length=length)
        self._sock = peer
        self._buffer = memoryview(bytearray(min(COPY_SIZE, length)))
        self._held = self._buffer[:0]

    @property
    def _is_empty(self) -> bool:
        return not self._held

    def _take(self) -> int:
        count = receive_into(self._sock, self._buffer[: self.left])
        self._held = self._buffer[:count]
        return count

    def _give(self) -> int:
        count = self.lease.write(self._held)
        if self.lease.observer is not None:
            self.lease.observer(self._held[:count])
        self._held = self._held[count:]
        return count


@cache
def can_splice() -> bool:
    """Return True if this kernel splices between sockets: sandboxes and seccomp filters may not."""
    (source, sender), (receiver, sink), pipe = socket.socketpair(), socket.socketpair(), Pipe()
    try:
        sender.send(b"x")
        os.splice(source.fileno(), pipe.writer, 1, flags=os.SPLICE_F_NONBLOCK)
        os.splice(pipe.reader, sink.fileno(), 1, flags=os.SPLICE_F_NONBLOCK)
        return receiver.recv(1) == b"x"
    except OSError:
        return False
    finally:
        pipe.close()
        for each in (source, sender, receiver, sink):
            each.close()
