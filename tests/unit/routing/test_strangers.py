"""A stranger's input is bounded: contacts, their addresses, and repeats of the whole set."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, cast

import trio
import trio.testing
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import announce, frames
from spegel_py.routing.libp2p.frames import Hello, Resync
from spegel_py.routing.libp2p.kademlia import CLOSEST, MAX_ADDRESSES, KademliaClient
from spegel_py.routing.libp2p.sharing import AnnounceContext
from spegel_py.routing.libp2p.streams import MessageReader
from tests.unit.routing.hosts import ours

PEER = ID(b"\x12\x20" + b"p" * 32)
INTERVAL = 4.0


def answer(contacts: int, addresses: int) -> Message:
    """Return an answer that names so many peers with so many addresses each."""
    message = Message(type=Message.FIND_NODE)
    for number in range(contacts):
        entry = message.closerPeers.add()
        entry.id = number.to_bytes(34, "big")
        entry.addrs.extend(
            Multiaddr(f"/ip4/192.0.2.{each % 250}/tcp/5001").to_bytes() for each in range(addresses)
        )
    return message


def test_an_answer_names_as_many_peers_as_kademlia_wants() -> None:
    """15,000 that do not answer would keep a node busy for an hour and a half."""
    client = KademliaClient(ours())

    async def ask(_peer: ID, question: Message) -> Message:
        return answer(1000, 100)

    client._request = ask  # type: ignore[method-assign,assignment]
    found = trio.run(client.find_node, PEER, b"target")
    assert len(found) == CLOSEST
    assert {len(contact.addresses) for contact in found} == {MAX_ADDRESSES}


def test_a_whole_set_is_told_again_once_in_an_interval() -> None:
    """For any input of a peer: each repeat costs as much as the whole local set."""
    restarts: list[float] = []

    class State:
        def restart(self) -> None:
            restarts.append(trio.current_time())

    class Stream:
        """A peer that asks a hundred times a second for three intervals."""

        def __init__(self) -> None:
            self.left = int(3 * INTERVAL * 100)

        async def read(self, _n: int) -> bytes:
            if not self.left:
                raise StreamEOF
            self.left -= 1
            await trio.sleep(0.01)
            return frames.encode(Resync())

    class Context:
        hello = Hello(INTERVAL, "", 5000)

    stream = announce.AnnounceStream(
        host=ours(),
        peer=PEER,
        context=cast("AnnounceContext", Context()),
        carried=lambda *_: None,
    )
    stream._state = cast("Any", State())

    async def main() -> None:
        reader = MessageReader(cast("Any", Stream()))
        with contextlib.suppress(StreamEOF):
            while True:
                await stream._receive(reader)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert 3 <= len(restarts) <= 7
    pauses = [after - before for before, after in itertools.pairwise(restarts)]
    assert min(pauses) >= INTERVAL / 2
