"""Bodies of peers moved into clients' sockets, by the kernel where nobody has to see them; the event loop judges the
pace."""

from __future__ import annotations

import os
import socket
from abc import abstractmethod
from collections.abc import Callable
from functools import cache, partial

from spegel_py.errors import PeerUnreachable
from spegel_py.transfer.base import ClientGone, Loan
from spegel_py.transfer.mover import Mover
from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.pipes import SIZE, Pipe, Pipes
from spegel_py.transfer.watch import Watch

COPIED = 64 * 1024
"""Bytes copied at once: a slow client makes each transfer keep this many, and hashing them takes
longer than the system calls around it."""


class Splicer:
    """Owns a mover and the pipes; `close` ends both."""

    def __init__(self) -> None:
        self._mover = Mover(name="splice")
        self._pipes = Pipes()

    def __repr__(self) -> str:
        return f"<Splicer {self._mover!r} {self._pipes!r}>"

    @property
    def load(self) -> int:
        """How many bodies are being moved."""
        return self._mover.load

    async def splice(self, peer: socket.socket, length: int, loan: Loan, watch: Watch) -> None:
        """Move `length` bytes and no more; none where there is no pipe to be had.

        Raises PeerUnreachable, PeerStalled and ClientGone.
        """
        if loan.tap is not None:
            await self._run(Copy(peer=peer.fileno(), tap=loan.tap, loan=loan, length=length), watch)
            return
        with self._pipes.borrow() as pipe:
            if pipe is not None:
                await self._run(
                    Splice(peer=peer.fileno(), pipe=pipe, loan=loan, length=length), watch
                )

    async def _run(self, move: Move, watch: Watch) -> None:
        with watch.following(move):
            await self._mover.run(move, look=partial(_look, move, watch))

    def close(self) -> None:
        """End what is under way, and let no more in."""
        self._mover.close()
        self._pipes.close()


def _look(move: Move, watch: Watch, now: float) -> float:
    return min(move.look(now), watch.look(now))


class _Passed(Move):
    """Bytes of a peer's socket, through something that is emptied before more is taken. Raises PeerUnreachable."""

    def __init__(self, *, peer: int, loan: Loan, length: int) -> None:
        super().__init__(source=peer, loan=loan, length=length)
        self._peer = peer

    @property
    @abstractmethod
    def _is_empty(self) -> bool:
        """Whether all that was taken was given."""

    @abstractmethod
    def _take(self) -> int:
        """Take bytes of the peer, none at its end, and return how many. Raises OSError."""

    @abstractmethod
    def _give(self) -> int:
        """Give the client some of what was taken, and return how many bytes. Raises OSError."""

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


class Splice(_Passed):
    """Through a pipe, by the kernel alone."""

    def __init__(self, *, peer: int, pipe: Pipe, loan: Loan, length: int) -> None:
        super().__init__(peer=peer, loan=loan, length=length)
        self._pipe = pipe

    @property
    def _is_empty(self) -> bool:
        return not self._pipe.held

    def _take(self) -> int:
        most = min(SIZE, self.left)
        self._pipe.held = os.splice(self._peer, self._pipe.writer, most, flags=os.SPLICE_F_NONBLOCK)
        return self._pipe.held

    def _give(self) -> int:
        count = os.splice(
            self._pipe.reader, self.loan.fd, self._pipe.held, flags=os.SPLICE_F_NONBLOCK
        )
        self._pipe.held -= count
        return count


class Copy(_Passed):
    """Through a buffer: `tap` sees each byte once it has been passed on."""

    def __init__(
        self, *, peer: int, tap: Callable[[memoryview], object], loan: Loan, length: int
    ) -> None:
        super().__init__(peer=peer, loan=loan, length=length)
        self._tap = tap
        self._buffer = memoryview(bytearray(min(COPIED, length)))
        self._held = self._buffer[:0]

    @property
    def _is_empty(self) -> bool:
        return not self._held

    def _take(self) -> int:
        count = os.readv(self._peer, [self._buffer[: self.left]])
        self._held = self._buffer[:count]
        return count

    def _give(self) -> int:
        count = os.write(self.loan.fd, self._held)
        self._tap(self._held[:count])
        self._held = self._held[count:]
        return count


@cache
def can_splice() -> bool:
    """Say whether this kernel moves bytes from a socket to a socket: sandboxes and seccomp filters may not."""
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
