"""Dialling peers by their addresses, none of them twice at a time, and never this node itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog
import trio
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.kademlia import Contact, strip_peer

log = structlog.get_logger(__name__)

DIAL_TIMEOUT = 3.0
"""Seconds for one dial with its handshakes: 11 ms when idle, but a node that starts up on a busy core needs longer."""
MAX_DIALS = 8
"""Dials at once: each costs about 20 ms of CPU at either end."""


class Dialler:
    """Dials for the mesh.

    Args:
        connected: the peers that are connected, at any time.
        contact: returns the addresses at which a peer can be dialled.
        twin: is called with an address at which another process has the identity of this node.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        connected: Collection[ID],
        contact: Callable[[ID], Contact],
        twin: Callable[[str], None],
    ) -> None:
        self._host = host
        self._connected = connected
        self._contact = contact
        self._twin = twin
        self._dials = trio.CapacityLimiter(MAX_DIALS)
        self._dialling: set[str] = set()
        self._dialled: dict[str, ID] = {}
        self._own_addresses: set[str] = set()

    def __repr__(self) -> str:
        return f"<Dialler {sorted(self._dialling)}>"

    async def reach(self, addresses: Iterable[Multiaddr], expected: ID | None) -> bool:
        """Try the addresses in turn; `expected` is the peer's id where it is known. Says whether one was connected.

        Addresses of peers that are connected, of this node itself, and those being dialled are passed over.
        """
        for address in addresses:
            text = str(strip_peer(address))
            if (
                text in self._own_addresses
                or text in self._dialling
                or self._is_connected(text, expected)
            ):
                continue
            self._dialling.add(text)
            try:
                async with self._dials:
                    found = await compat.dial(
                        self._host, Multiaddr(text), expected=expected, timeout=DIAL_TIMEOUT
                    )
                    self._dialled[text] = found
                    return True
            except compat.ThisNode:
                self._own_addresses.add(text)
            except compat.SameIdentity:
                self._twin(text)
            except PeerUnreachable as error:
                log.debug("dial failed", address=text, error=str(error))
            finally:
                self._dialling.discard(text)
        return False

    def is_own(self, address: str) -> bool:
        """Say whether an address was dialled and is this node's own."""
        return address in self._own_addresses

    def _is_connected(self, text: str, expected: ID | None) -> bool:
        if expected is not None:
            return expected in self._connected
        if self._dialled.get(text) in self._connected:
            return True
        return any(
            text == str(address)
            for peer in self._connected
            for address in self._contact(peer).addresses
        )
