"""Bodies of peers moved into clients' sockets by the kernel: threads move, the event loop waits and judges the pace."""

from __future__ import annotations

import socket

from spegel_py.transfer.base import Loan
from spegel_py.transfer.moves import Side, Splice
from spegel_py.transfer.pipes import Pipes
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
