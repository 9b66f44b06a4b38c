"""Connecting to peers by their addresses: the known addresses, and one dial to each at a time.

`dial` replaces py-libp2p's own dialling (trap 4 of `compat`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

import structlog
import trio
from libp2p.abc import ISecureConn
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.cluster_keys import ClusterKey
from spegel_py.routing.libp2p import closing, compat
from spegel_py.routing.libp2p.lean_host import LeanUpgrader
from spegel_py.routing.libp2p.mesh_swarm import MeshSwarm
from spegel_py.routing.libp2p.multiaddrs import Contact, strip_peer
from spegel_py.routing.libp2p.network_gate import KeyNotAccepted, SeenAddresses

log = structlog.get_logger(__name__)

DIAL_TIMEOUT = 3.0
"""Seconds for one dial with its handshakes. It takes 11 ms on an idle node, and longer on a busy
core at the start."""
MAX_DIALS = 8
"""Dials at once: each costs about 20 ms of CPU at either end."""
MAX_KNOWN = 10_000
"""Peers whose addresses are remembered, connected or not."""


T = TypeVar("T")


class PeerAddresses:
    """The addresses of peers: their own announced ones while connected, else the last ones."""

    def __init__(self, host: BasicHost) -> None:
        self._host = host
        self._known: dict[ID, tuple[Multiaddr, ...]] = {}
        # Of each peer: the addresses as it sent them, and without its id, which takes long to make.
        self._stripped: dict[ID, tuple[list[Multiaddr], tuple[Multiaddr, ...]]] = {}

    def __repr__(self) -> str:
        return f"<PeerAddresses of {len(self._known)} peers>"

    def __contains__(self, peer: ID) -> bool:
        return peer in self._known

    def contact(self, peer: ID) -> Contact:
        """Return a peer with its own announced addresses, or with the remembered ones."""
        try:
            given = list(self._host.get_peerstore().addrs(peer))
        except Exception:  # noqa: BLE001 - py-libp2p raises if a peer has no addresses yet
            given = []
        if given:
            if self._stripped.get(peer, ((), ()))[0] != given:
                self._stripped[peer] = given, tuple(strip_peer(address) for address in given)
            self._known[peer] = self._stripped[peer][1]
        return Contact(peer, self._known.get(peer, ()))

    def remembered(self, peer: ID) -> tuple[Multiaddr, ...]:
        """Return the remembered addresses of a peer."""
        return self._known.get(peer, ())

    def remember(self, contacts: Iterable[Contact]) -> None:
        """Remember new contacts, as long as fewer than MAX_KNOWN are known."""
        for contact in list(contacts)[: max(0, MAX_KNOWN - len(self._known))]:
            self._known.setdefault(contact.id, contact.addresses)

    def forget(self, peer: ID) -> None:
        """Forget the addresses of a peer."""
        self._known.pop(peer, None)
        self._stripped.pop(peer, None)


class Dialler:
    """Dials addresses, each once at a time, and never this node itself.

    Args:
        connected: the peers that are connected, at any time.
        on_duplicate: is called with an address at which another process has this node's identity.
    """

    def __init__(
        self,
        *,
        host: BasicHost,
        connected: Collection[ID],
        addresses: PeerAddresses,
        on_duplicate: Callable[[str], None],
    ) -> None:
        self._host = host
        self._connected = connected
        self._addresses = addresses
        self._on_duplicate = on_duplicate
        self._dials = trio.CapacityLimiter(MAX_DIALS)
        self._dialling: set[str] = set()
        self._dialled: dict[str, ID] = {}
        self._own_addresses: set[str] = set()
        self._refusing = SeenAddresses()

    def __repr__(self) -> str:
        return f"<Dialler {sorted(self._dialling)}>"

    async def dial(self, addresses: Iterable[Multiaddr], expected: ID | None) -> bool:
        """Try the addresses in turn. Return True once a connection is up.

        An address is skipped if it belongs to a connected peer or to this node, or is being
        dialled. `expected` is the peer's id, None if it is unknown.
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
                    found = await dial(
                        self._host, Multiaddr(text), expected=expected, timeout=DIAL_TIMEOUT
                    )
                    self._dialled[text] = found
                    return True
            except ThisNode:
                self._own_addresses.add(text)
            except SameIdentity:
                self._on_duplicate(text)
            except KeyNotAccepted as error:
                if self._refusing.is_new(text):
                    log.warning("peer does not accept the cluster key", error=str(error))
            except PeerUnreachable as error:
                log.debug("dial failed", address=text, error=str(error))
            finally:
                self._dialling.discard(text)
        return False

    async def dial_again(self, peer: ID) -> None:
        """Make a further connection to a connected peer, at the first address that answers."""
        for address in self._addresses.contact(peer).addresses:
            with suppress(PeerUnreachable):
                async with self._dials:
                    await dial(self._host, address, expected=peer, timeout=DIAL_TIMEOUT)
                return

    def is_own(self, address: str) -> bool:
        """Return True if an address was dialled and proved to be this node's own."""
        return address in self._own_addresses

    def _is_connected(self, text: str, expected: ID | None) -> bool:
        if expected is not None:
            return expected in self._connected
        if self._dialled.get(text) in self._connected:
            return True
        return any(
            text == str(address)
            for peer in self._connected
            for address in self._addresses.contact(peer).addresses
        )


class ThisNode(PeerUnreachable):
    """The address is this node's own."""


class SameIdentity(PeerUnreachable):
    """Another process answers with the identity of this node."""


async def dial(host: BasicHost, address: Multiaddr, *, expected: ID | None, timeout: float) -> ID:
    """Connect to the peer at one address and return its id, learnt from the Noise handshake.

    Args:
        expected: the id that the peer must have, None for any.
        timeout: seconds for connecting, securing and multiplexing together.

    Raises:
        PeerUnreachable: the text says why.
    """
    swarm = cast("MeshSwarm", host.get_network())

    async def connect(key: ClusterKey | None) -> ID:
        async with _secured(swarm, address, expected=expected, timeout=timeout, key=key) as secured:
            peer_id = secured.get_remote_peer()
            muxed = await swarm.upgrader.upgrade_connection(secured, peer_id)
            await swarm.add_conn(muxed, direction="outbound")
            return peer_id

    return await _by_first_way(swarm, connect)


async def prove(host: BasicHost, address: Multiaddr, *, expected: ID, timeout: float) -> None:
    """Return if the peer `expected` answers at one address, as its Noise handshake proves.

    The connection is closed again. Raises PeerUnreachable saying why; `timeout` in seconds covers
    connecting and the handshake.
    """
    swarm = cast("MeshSwarm", host.get_network())

    async def connect(key: ClusterKey | None) -> None:
        async with _secured(
            swarm, address, expected=expected, timeout=timeout, key=key, is_kept=False
        ):
            pass  # the handshake is the proof

    await _by_first_way(swarm, connect)


async def _by_first_way(
    swarm: MeshSwarm, connect: Callable[[ClusterKey | None], Awaitable[T]]
) -> T:
    """Return the result of connecting with this node's key, or in the clear where that may be."""
    *earlier, last = swarm.gate.ways
    for key in earlier:
        with suppress(KeyNotAccepted):
            return await connect(key)
    return await connect(last)


@asynccontextmanager
async def _secured(
    swarm: MeshSwarm,
    address: Multiaddr,
    *,
    expected: ID | None,
    timeout: float,
    key: ClusterKey | None,
    is_kept: bool = True,
) -> AsyncIterator[ISecureConn]:
    """Yield a connection to an address after its handshake, and close it unless it `is_kept`.

    `timeout` covers the block too. Any error closes the connection, and is raised as a
    PeerUnreachable unless it is a cancellation.
    """
    raw: RawConnection | None = None
    try:
        with trio.fail_after(timeout):
            raw = cast("RawConnection", await TCP().dial(address))
            swarm.track(raw)
            swarm.gate.close_with(raw, key)
            try:
                secured = await cast("LeanUpgrader", swarm.upgrader).secure_outbound(raw)
            except Exception as error:
                if key is None:
                    raise
                raise KeyNotAccepted(
                    f"{address} closed the connection; its cluster keys do not have this node's "
                    f"key {key.fingerprint}, or it has none"
                ) from error
            _check_identity(secured, expected=expected, swarm=swarm)
            yield secured
        if not is_kept:
            await _close(raw)
    except trio.TooSlowError:
        await _close(raw)
        raise PeerUnreachable(f"no answer from {address} within {timeout} s") from None
    except PeerUnreachable:
        await _close(raw)
        raise
    except Exception as error:  # py-libp2p raises a dozen kinds here, some of them bare
        await _close(raw)
        raise PeerUnreachable(f"cannot connect to {address}: {error!r}") from error
    except BaseException:  # cancelled: no other task knows this socket yet
        await _close(raw)
        raise


def _check_identity(secured: ISecureConn, *, expected: ID | None, swarm: MeshSwarm) -> None:
    """Raise PeerUnreachable if the peer is this node, a duplicate, or not the expected peer."""
    peer_id = secured.get_remote_peer()
    if peer_id == swarm.get_peer_id():
        if compat.noise_key(secured) == swarm.noise_key:
            raise ThisNode("that is this node itself")
        raise SameIdentity("another node has the identity of this one")
    if expected is not None and peer_id != expected:
        raise PeerUnreachable(f"expected {expected}, found {peer_id}")


async def _close(raw: RawConnection | None) -> None:
    if raw is not None:
        with closing.shielded(1):
            await raw.close()
