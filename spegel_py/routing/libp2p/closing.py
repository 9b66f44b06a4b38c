"""Closing libp2p connections and sockets, in good order or from outside."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import trio
from libp2p.abc import INetConn
from libp2p.host.basic_host import BasicHost


def shielded(seconds: float) -> trio.CancelScope:
    """Return a scope for closing things: it outlasts a cancellation from outside, for `seconds`."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


async def hang_up(connections: Iterable[INetConn]) -> None:
    """Close these connections within two seconds, even if cancelled; the peer's newer ones stay."""
    with shielded(2):
        for connection in connections:
            await connection.close()


async def hang_up_all(host: BasicHost) -> None:
    """Close every connection: a stopped swarm would leave its dialled sockets open."""
    with shielded(2):
        async with trio.open_nursery() as nursery:
            for peer in host.get_connected_peers():
                nursery.start_soon(host.disconnect, peer)


def shut_sockets(host: BasicHost) -> None:
    """Shut all sockets of a host whose thread hangs (trap 10): peers see their end.

    The descriptors stay open, so that their numbers cannot be reused while the thread may wake up.
    """
    network = cast("Any", host.get_network())
    _shut([each.socket for listener in network.listeners.values() for each in listener.listeners])
    shut_connections(host)


def shut_connections(host: BasicHost) -> None:
    """Shut the sockets of all connections, lost ones too (trap 7)."""
    _shut(
        [
            cast("Any", raw).stream.stream.socket
            for raw in list(cast("Any", host.get_network()).raws)
        ]
    )


def _shut(sockets: Iterable[Any]) -> None:
    for one in sockets:
        with suppress(OSError):  # closed already
            one.shutdown(socket.SHUT_RDWR)
