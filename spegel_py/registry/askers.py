"""The sender of a request: this node's own runtime, another node, or some other client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from enum import Enum

import structlog
from aiohttp import web

from spegel_py.errors import Denied, Unauthorized
from spegel_py.oci.distribution import NODE_HEADER, RUNTIME_HEADER
from spegel_py.registry.proof_gate import PROVEN
from spegel_py.tools.runtime_token import TokenFile

log = structlog.get_logger(__name__)

LOG_INTERVAL = 60.0
"""Seconds between two log records of refused clients, at least."""

REFUSAL = (
    "only this node's own container runtime is served here: let `spegel-py configuration "
    "--runtime-token FILE` write the node's token into hosts.toml (see spegel-py doctor)"
)


class Door(Enum):
    """A port of the registry, by the clients that it is for."""

    ALL = "all"
    PEERS = "peers"
    RUNTIME = "runtime"


class Asker(Enum):
    """The sender of a request."""

    RUNTIME = "this node's own runtime"
    """Transfers to it are not limited. It follows downloads that are under way."""
    PEER = "another node"
    """It is answered from this node's own content, so a request makes one hop."""
    CLIENT = "another client"
    """Content is fetched for it from peers, within the limits on transfers."""
    STRANGER = "a client without the runtime's token"
    """It is refused."""
    UNPROVEN = "a client without the proof of a peer"
    """It is refused."""
    UNENCRYPTED = "a client without TLS"
    """It is refused."""


ASKER = web.RequestKey("asker", Asker)
"""The key of the sender of a request below `/v2`."""


def who_asks(
    *,
    door: Door,
    is_mirrored: bool,
    has_token: bool | None,
    has_proof: bool | None,
    node: str | None,
    own_node: str,
    is_here: bool,
    has_tls: bool | None = None,
) -> Asker:
    """Return the sender of a request. Pure.

    Args:
        door: the port that it came to.
        is_mirrored: the request is to be answered from this node's own content.
        has_token: the request has this node's runtime token; None if the node has no token file.
        has_proof: the request has the proof of a peer; None if the node answers without.
        node: the name of the node whose runtime asks, if the request tells it.
        own_node: the name of this node.
        is_here: the client connected from an address of this host.
        has_tls: the connection has TLS; None if the port serves clients without it.
    """
    # Case 1: the port of the peers, or a request that a peer has marked. It needs no token, and
    # causes no request to a third node.
    if door is Door.PEERS or (is_mirrored and door is Door.ALL):
        found = Asker.PEER
    # Case 2: this node's runtime has a token, and the request does not.
    elif has_token is False:
        return Asker.STRANGER
    # Case 3: the runtime's own port, but the request is to make no hop.
    elif is_mirrored:
        found = Asker.PEER
    # Case 4: the token, else the name, else the address. All nodes may be waiting for the download
    # by the runtime of another node. A node that made that runtime wait for the same download would
    # stop the pull of the whole cluster until a deadline.
    elif has_token or (node == own_node if node is not None else is_here):
        return Asker.RUNTIME
    else:
        found = Asker.CLIENT
    if has_tls is False:
        return Asker.UNENCRYPTED
    return found if has_proof is not False else Asker.UNPROVEN


class Doorkeeper:
    """Names the sender of each request, and refuses strangers.

    Args:
        door: the port at which they ask.
        node: the name by which this node's own runtime identifies itself.
        tokens: the tokens of this node's own runtime; None to go by name and address.
        needs_proof: True to refuse all but this node's own runtime and proven peers.
        needs_tls: True to refuse all but this node's own runtime and clients with TLS.
    """

    def __init__(
        self,
        *,
        door: Door = Door.ALL,
        node: str,
        tokens: TokenFile | None = None,
        needs_proof: bool = False,
        needs_tls: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._door = door
        self._node = node
        self._tokens = tokens
        self._needs_proof = needs_proof
        self._needs_tls = needs_tls and door is not Door.RUNTIME
        self._clock = clock
        self._last_logged = -math.inf

    def __repr__(self) -> str:
        return f"<Doorkeeper for {self._door.value} of {self._node!r} with {self._tokens!r}>"

    async def admit(self, request: web.Request, *, is_mirrored: bool) -> Asker:
        """Return the sender of a request. Raises Denied or Unauthorized for a refused one."""
        given = request.headers.get(RUNTIME_HEADER, "")
        found = who_asks(
            door=self._door,
            is_mirrored=is_mirrored,
            has_token=None if self._tokens is None else await self._tokens.accept(given),
            has_proof=PROVEN in request if self._needs_proof else None,
            node=request.headers.getall(NODE_HEADER, [""])[-1].strip() or None,
            own_node=self._node,
            is_here=_is_here(request),
            has_tls=_has_tls(request) if self._needs_tls else None,
        )
        if found is Asker.STRANGER:
            self._log(request, has_token=bool(given))
            raise Denied(REFUSAL)
        if found is Asker.UNENCRYPTED:
            raise Denied("only clients with TLS are answered here (--peer-tls-mode=require)")
        if found is Asker.UNPROVEN:
            raise Unauthorized("only proven peers are answered here (--peer-proofs=require)")
        return found

    def _log(self, request: web.Request, *, has_token: bool) -> None:
        if (now := self._clock()) < self._last_logged + LOG_INTERVAL:
            return
        self._last_logged = now
        log.warning(
            "client refused: it lacks the runtime token",
            client=request.remote,
            token="wrong" if has_token else "none",
        )


def _is_here(request: web.Request) -> bool:
    if (transport := request.transport) is None:
        return False
    client, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return bool(client and own and client[0] == own[0])


def _has_tls(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and transport.get_extra_info("sslcontext") is not None
