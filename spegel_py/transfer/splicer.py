"""Bodies of peers moved into clients' sockets by the kernel: threads move, the event loop waits and judges the pace."""

from __future__ import annotations

import os
import socket
from functools import cache

from spegel_py.errors import PeerUnreachable
from spegel_py.transfer.base import ClientGone, Loan
from spegel_py.transfer.moves import Move, Side
from spegel_py.transfer.pipes import SIZE, Pipe, Pipes
from spegel_py.transfer.threads import Threads
from spegel_py.transfer.waiting import writable
from spegel_py.transfer.watch import Watch

THREADS = 4
"""Threads that move bytes between sockets: they wait for nobody, so a few keep all processors busy, and the event loop
has fewer of them to compete with."""


class Splicer:
    """Owns the threads and the pipes; `close` ends both."""

    def __init__(self, *, threads: int = THREADS) -> None:
        self._threads = Threads(count=threads, name="splice")
        self._pipes = Pipes()

    def __repr__(self) -> str:
        return f"<Splicer {self._threads!r} {self._pipes!r}>"

    async def splice(self, peer: socket.socket, length: int, loan: Loan, watch: Watch) -> None:
        """Move `length` bytes and no more; none where there is no pipe to be had.

        Raises PeerUnreachable, PeerStalled and ClientGone.
        """
        with self._pipes.borrow() as pipe:
            if pipe is None:
                return
            move = Splice(peer=peer.fileno(), pipe=pipe, loan=loan, length=length)
            while move.left:
                side = await self._threads.run(move)
                watch.note(move.received, move.waited)
                if side is Side.SOURCE:
                    await watch.wait(peer)
                elif side is Side.CLIENT:
                    await writable(loan)

    def close(self) -> None:
        """Wait for what is under way, and let no more in."""
        self._threads.close()
        self._pipes.close()


class Splice(Move):
    """Bytes of a peer's socket, through a pipe that is emptied before more is taken. Raises PeerUnreachable."""

    def __init__(self, *, peer: int, pipe: Pipe, loan: Loan, length: int) -> None:
        super().__init__(source=peer, loan=loan, length=length)
        self._pipe = pipe

    def _step(self, most: int) -> Side | None:
        if not self._pipe.held and not self._fill(most):
            return Side.SOURCE
        try:
            count = os.splice(self._pipe.reader, self.loan.fd, self._pipe.held, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return Side.CLIENT
        except OSError as error:
            raise ClientGone("the client left") from error
        self._pipe.held -= count
        self._moved(count)
        return None

    def _fill(self, most: int) -> bool:
        try:
            count = os.splice(self._source, self._pipe.writer, min(SIZE, most), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerUnreachable(f"the peer broke off: {error.strerror}") from error
        if not count:
            raise PeerUnreachable("the peer broke off in the middle of the body")
        self._pipe.held = count
        self.received += count
        return True


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
