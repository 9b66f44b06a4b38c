"""The Upstream port over HTTP/1.1 on raw sockets, so that the kernel can move the bodies.

An HTTP client library would read the body itself, or call it unfinished if other code has read it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spegel_py.errors import PeerStalled, PeerUnreachable
from spegel_py.oci.distribution import (
    CLIENT_HEADER,
    IN_FLIGHT_HEADER,
    MIRRORED_HEADER,
    PullClient,
)
from spegel_py.routing.base import Peer
from spegel_py.routing.peer_proofs import PROOF_HEADER, RequestProof
from spegel_py.transfer.answer import check_answer
from spegel_py.transfer.base import Deadlines, PeerRequest
from spegel_py.transfer.connection_pool import ConnectionPool, dial
from spegel_py.transfer.exchange import HTTPExchange, ResponseHead
from spegel_py.transfer.peer_prover import PeerProver
from spegel_py.transfer.response import HTTPResponse
from spegel_py.transfer.splicer import Splicer, can_splice
from spegel_py.transfer.tls_sockets import encrypted, receive, send_all

if TYPE_CHECKING:
    from spegel_py.transfer.peer_tls import PeerTls

FIRST = 16 * 1024
"""Bytes read at once while waiting for a head: most manifests come with it, in one system call."""


class HTTPUpstream:
    """Asks peers over HTTP/1.1; an async context manager, to be used inside one event loop.

    Args:
        deadlines: how long each wait may last.
        authorization: value of the header that peers' registries want, None if they want none. It
            is sent only to peers that proved that they know the password, and without proofs.
        prover: proves the requests, and checks the answers; None to ask without proofs.
        tls: the certificates towards peers with TLS; None to ask all without.
        is_copying: True to keep the kernel from moving bodies, for tests and measurements.
    """

    def __init__(
        self,
        *,
        deadlines: Deadlines,
        authorization: str | None = None,
        prover: PeerProver | None = None,
        tls: PeerTls | None = None,
        is_copying: bool = False,
    ) -> None:
        self._prover = prover
        self._tls = tls
        self._deadlines = deadlines
        self._authorization = authorization
        self._splicer = None if is_copying or not can_splice() else Splicer()
        self._pool: ConnectionPool | None = None

    def __repr__(self) -> str:
        return f"<HTTPUpstream {self._pool!r} {self._splicer!r}>"

    async def __aenter__(self) -> Self:
        self._pool = ConnectionPool()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._splicer is not None:
            self._splicer.close()

    @property
    def load(self) -> int:
        """Number of peers' bodies that the kernel is moving."""
        return 0 if self._splicer is None else self._splicer.load

    @asynccontextmanager
    async def open(self, peer: Peer, request: PeerRequest) -> AsyncIterator[HTTPResponse]:
        try:
            async with asyncio.timeout(self._deadlines.connect + self._first_byte(request)):
                sock, response = await self._ask(peer, request)
        except TimeoutError as error:
            raise PeerStalled("no answer came within the deadline") from error
        try:
            response.answer = check_answer(request, response.head.status, response.head.headers)
            yield response
        finally:
            if response.is_over and self._pool is not None:
                self._pool.keep(peer, sock)
            else:
                sock.close()

    async def _ask(self, peer: Peer, request: PeerRequest) -> tuple[socket.socket, HTTPResponse]:
        """Return the answer and its connection: an idle one, or a new one if the peer hung up."""
        if self._pool is None:
            raise PeerUnreachable("the client of peers is closed")
        context = None if self._tls is None else self._tls.client_context(peer)
        if (kept := self._pool.take(peer)) is not None:
            try:
                return kept, await self._talk(kept, peer, request)
            except _HungUp:
                pass  # while the connection was idle, or just now: ask once more on a new one
        try:
            async with asyncio.timeout(self._deadlines.connect):
                sock = await dial(peer)
        except TimeoutError as error:
            raise PeerUnreachable("no connection within the deadline") from error
        except OSError as error:
            raise PeerUnreachable(f"no connection to the peer: {error}"[:200]) from error
        if context is not None:
            try:
                sock = await encrypted(sock, context)
            except OSError as error:
                raise PeerUnreachable(f"no TLS with the peer: {error}"[:200]) from error
        return sock, await self._talk(sock, peer, request)

    async def _talk(self, sock: socket.socket, peer: Peer, request: PeerRequest) -> HTTPResponse:
        """Send the request and wait for the head of the answer. Raises PeerError."""
        try:
            exchange, proof = self._exchange(peer, request)
            head = await self._head(sock, exchange, self._first_byte(request))
            if self._prover is not None and proof is not None:
                self._prover.check(peer, proof, head.status, head.headers)
        except BaseException:
            sock.close()
            raise
        deadlines = self._deadlines
        if request.stall is not None:
            # the content comes as fast as a registry sends it to some node
            deadlines = replace(deadlines, stall=request.stall, floors=())
        return HTTPResponse(
            sock=sock, exchange=exchange, head=head, deadlines=deadlines, splicer=self._splicer
        )

    def _first_byte(self, request: PeerRequest) -> float:
        return self._deadlines.first_byte if request.stall is None else request.stall

    async def _head(
        self, sock: socket.socket, exchange: HTTPExchange, within: float
    ) -> ResponseHead:
        received = 0
        try:
            async with asyncio.timeout(within):
                await send_all(sock, exchange.request)
                while data := await receive(sock, FIRST):
                    received += len(data)
                    if (head := exchange.receive(data)) is not None:
                        return head
        except TimeoutError as error:
            raise PeerStalled("no answer came within the deadline") from error
        except OSError as error:
            raise _broken(received, str(error.strerror or error)) from error
        raise _broken(received, "it hung up")

    def _exchange(
        self, peer: Peer, request: PeerRequest
    ) -> tuple[HTTPExchange, RequestProof | None]:
        """Return the request with its proof, or with the password for a peer without proofs.

        Raises PeerUnproven.
        """
        method, headers = "HEAD" if request.head else "GET", self._headers(peer, request)
        proof = None
        if self._prover is not None:
            proof = self._prover.prove(
                peer, method=method, target=request.target, headers=dict(headers)
            )
        if proof is not None:
            headers.append((PROOF_HEADER, proof.header))
        elif self._authorization is not None and peer.knows_password:
            headers.append(("Authorization", self._authorization))
        return HTTPExchange(method=method, target=request.target, headers=headers), proof

    def _headers(self, peer: Peer, request: PeerRequest) -> list[tuple[str, str]]:
        headers = [
            ("Host", peer.authority),
            (MIRRORED_HEADER, "true"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", "spegel-py"),
            *(("Accept", line) for line in request.accept),
            *request.trace.items(),
        ]
        if request.stall is not None:
            headers.append((IN_FLIGHT_HEADER, "true"))
        if request.is_background:
            headers.append((CLIENT_HEADER, PullClient.REPLICA.value))
        if request.range is not None:
            headers.append(("Range", str(request.range)))
        return headers


class _HungUp(PeerUnreachable):
    """The peer closed the connection before it answered: an idle connection may be too old."""


def _broken(received: int, reason: str) -> PeerUnreachable:
    kind = PeerUnreachable if received else _HungUp
    return kind(f"the connection broke before there was an answer: {reason}")
