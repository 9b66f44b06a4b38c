"""Kademlia as Spegel speaks it, `/spegel/kad/1.0.0`: server, client, and upkeep of records.

Only the message format of py-libp2p's KadDHT is used. KadDHT itself limits providers to ten at a
time, keeps records of dead peers for 48 hours, and speaks `/ipfs` protocols. It also answers an
ADD_PROVIDER, which go-libp2p would take for the answer to its next message. Here records live in
the RecordTable, and a lookup is one hop, since every node knows all members.

A provider's registry port travels as one more address, `/ip4/…/tcp/<port>/http`: standard nodes
store and return it like any other address, and a node that does not know it (Spegel) is
unharmed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
import trio
import varint
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import PingService
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from spegel_py.routing.libp2p import closing, mesh_swarm
from spegel_py.routing.libp2p.bounds import MessageBudget, bound_key
from spegel_py.routing.libp2p.keys import from_record_key, record_key
from spegel_py.routing.libp2p.multiaddrs import Contact, own_addresses
from spegel_py.routing.libp2p.sharing import AnnounceContext
from spegel_py.routing.libp2p.streams import MessageReader, Stream, StreamPool, finish, translated

log = structlog.get_logger(__name__)

PROTOCOL = TProtocol("/spegel/kad/1.0.0")
CLOSEST = 20
"""Peers named in an answer: Kademlia's k."""
MAX_ADDRESSES = 8
"""Addresses read of a peer: a host has one or two for each of IPv4 and IPv6."""
MAX_MESSAGE = 1 << 20
"""Largest message in bytes; twenty peers with all their addresses take under 20 KiB."""
ANSWER_COST = 5
"""Cost of a message that needs an answer, in messages: 20 peers with their addresses are looked up
and written."""
IDLE_TIMEOUT = 60.0
"""Seconds for which a peer may keep a stream open without a message (go-libp2p's own bound)."""
REQUEST_TIMEOUT = 2.0
"""Seconds for one request: a live peer answers in 4 ms, a stopped one never."""
PING_INTERVAL, PING_TIMEOUT = 4.0, 4.0
"""Seconds between two pings of a peer without the announce protocol, and for its pong: a stopped
peer is dropped within 8 s."""
REPROVIDE_INTERVAL = 600.0
"""Seconds between full rounds of provider records; standard nodes keep them for 19 minutes or
more."""
ADD_TIMEOUT = 60.0
"""Seconds for a whole batch of ADD_PROVIDERs to one peer; 10,000 keys take a few."""


@dataclass(frozen=True, slots=True)
class KademliaBackend:
    """The functions that the server answers with; all are called on the Trio side."""

    providers: Callable[[bytes], list[Contact]]
    """Returns the holders of a key's hash, this node included."""
    closest: Callable[[bytes, ID], list[Contact]]
    """Returns the connected peers closest to a raw key (peer id or record key), for a peer that
    asks, so without that one."""
    provide: Callable[[ID, bytes, Sequence[Multiaddr]], bool]
    """Keeps a record of provider (always the sender), key's hash and addresses; False if
    refused."""
    dropped: Callable[[str], None]
    """Counts refused input, by reason."""


class KademliaServer:
    """Answers the messages of other nodes."""

    def __init__(self, host: BasicHost, backend: KademliaBackend) -> None:
        self._host = host
        self._backend = backend
        self._budget = MessageBudget()

    async def handle(self, stream: INetStream) -> None:
        """Answer every message of one stream. A malformed one resets this stream only."""
        sender = stream.muxed_conn.peer_id
        key = bound_key(mesh_swarm.remote_ip(stream) or "", str(sender))
        reader = MessageReader(stream)
        try:
            while True:
                reader.begin()
                with trio.fail_after(IDLE_TIMEOUT):
                    raw = await read_varint_prefixed_bytes_limited(cast("Any", reader), MAX_MESSAGE)
                message = Message()
                message.ParseFromString(raw)
                await self._budget.spend(
                    key, 1 if message.type == Message.ADD_PROVIDER else ANSWER_COST
                )
                answer = self._answer(message, sender)
                if answer is not None:
                    await _send(stream, answer)
        except trio.TooSlowError:
            await stream.reset()
        except StreamError:
            if reader.is_within:
                self._backend.dropped("half-frame")
            await stream.close()
        except Exception as error:  # noqa: BLE001 - no peer's input may end this node
            self._backend.dropped(_reason(error))
            await stream.reset()

    def _answer(self, message: Message, sender: ID) -> Message | None:
        """Return the answer, if the message needs one. Raises ValueError if it is malformed."""
        kind = message.type
        # Case 1: a provider record, which gets no answer.
        if kind == Message.ADD_PROVIDER:
            self._add_provider(message, sender)
            return None
        # Case 2: a ping.
        if kind == Message.PING:
            return Message(type=Message.PING)
        # Case 3: a message of another kind, or without a key.
        if (
            kind not in (Message.FIND_NODE, Message.GET_PROVIDERS, Message.GET_VALUE)
            or not message.key
        ):
            raise ValueError("bad-message")
        # Case 4: a lookup. The answer names the holders, if asked for, and the closest peers.
        answer = Message(type=kind, key=message.key)
        if kind == Message.GET_PROVIDERS and (key := from_record_key(message.key)):
            _fill(answer.providerPeers, self._backend.providers(key))
        near = self._backend.closest(message.key, sender)
        if kind == Message.FIND_NODE and message.key == self._host.get_id().to_bytes():
            near.insert(0, Contact(self._host.get_id(), own_addresses(self._host)))
        _fill(answer.closerPeers, near)
        return answer

    def _add_provider(self, message: Message, sender: ID) -> None:
        key = from_record_key(message.key)
        if key is None:
            raise ValueError("bad-key")
        for entry in message.providerPeers[:CLOSEST]:
            if entry.id != sender.to_bytes():
                self._backend.dropped("foreign-record")
            elif not self._backend.provide(sender, key, _addresses(entry.addrs)):
                self._backend.dropped("too-many-records")


class KademliaClient:
    """Sends requests to other nodes.

    Every call raises PeerUnreachable if the peer does not answer in time, or answers malformed.
    """

    def __init__(self, host: BasicHost) -> None:
        self._host = host
        self._streams: StreamPool[Message] = StreamPool(host, PROTOCOL, timeout=REQUEST_TIMEOUT)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[KademliaClient]:
        """Serve callers while the block lasts; requests under way are given up at its end."""
        async with self._streams.running():
            yield self

    def forget(self, peer: ID) -> None:
        """Drop the streams kept to a disconnected peer."""
        self._streams.forget(peer)

    async def find_node(
        self, peer: ID, target: bytes, *, known: Container[ID] = ()
    ) -> list[Contact]:
        """Return the peers closest to a raw key that `peer` knows, at most CLOSEST.

        The addresses of `known` peers are left out, since reading them takes long.
        """
        answer = await self._request(peer, Message(type=Message.FIND_NODE, key=target))
        entries = answer.closerPeers[:CLOSEST]
        return [contact for entry in entries if (contact := _contact(entry, known=known))]

    async def get_providers(self, peer: ID, key: bytes) -> list[Contact]:
        """Return the providers of a key's hash that `peer` knows."""
        answer = await self._request(peer, Message(type=Message.GET_PROVIDERS, key=record_key(key)))
        return [contact for entry in answer.providerPeers if (contact := _contact(entry))]

    async def add_providers(
        self, peer: ID, keys: Iterable[bytes], addresses: Sequence[Multiaddr]
    ) -> None:
        """Send `peer` this node's provider records for the keys; returns when the peer has read
        all.

        All go over one stream. The peer has read everything once it closes its side after we closed
        ours. (go-libp2p sends no answer to an ADD_PROVIDER; py-libp2p sends an echo, which is
        ignored.)
        """
        stream: INetStream | None = None
        try:
            with trio.fail_after(ADD_TIMEOUT):
                stream = await self._host.new_stream(peer, [PROTOCOL])
                await self._send_providers(stream, keys, addresses)
                await stream.close()
                stream = None
        except Exception as error:
            raise translated(error, peer) from error
        finally:
            if stream is not None:
                with closing.shielded(1):
                    await stream.reset()

    async def _send_providers(
        self, stream: INetStream, keys: Iterable[bytes], addresses: Sequence[Multiaddr]
    ) -> None:
        entry = Message.Peer(
            id=self._host.get_id().to_bytes(), addrs=[a.to_bytes() for a in addresses]
        )
        batch = bytearray()
        for key in keys:
            batch += _frame(
                Message(type=Message.ADD_PROVIDER, key=record_key(key), providerPeers=[entry])
            )
            if len(batch) > 32768:
                await stream.write(bytes(batch))
                batch.clear()
        await stream.write(bytes(batch))
        await finish(stream)

    async def _request(self, peer: ID, request: Message) -> Message:
        async def exchange(stream: Stream) -> Message:
            await _send(stream, request)
            answer = Message()
            raw = await read_varint_prefixed_bytes_limited(
                cast("Any", MessageReader(stream)), MAX_MESSAGE
            )
            answer.ParseFromString(raw)
            return answer

        return await self._streams.exchange(peer, exchange)


class Reprovider:
    """Keeps the provider records at one peer that speaks standard Kademlia only (Spegel in Go).

    It also pings the peer, and calls `lost` with the reason when the peer does not answer.
    """

    def __init__(
        self,
        *,
        peer: ID,
        kademlia: KademliaClient,
        ping: PingService,
        context: AnnounceContext,
        provider_addresses: Callable[[], list[Multiaddr]],
        lost: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._kademlia = kademlia
        self._ping = ping
        self._context = context
        self._provider_addresses = provider_addresses
        self._lost = lost

    async def run(self) -> None:
        """Send the records until a request fails (raises) or this task is cancelled."""
        log.info("peer speaks standard kademlia only", peer=str(self._peer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_pinging)
            sent: set[bytes] = set()
            renew = trio.current_time() + REPROVIDE_INTERVAL
            while True:
                news = self._context.news
                part = set(self._context.closest_part(self._peer))
                if trio.current_time() >= renew:
                    sent.clear()
                    renew = trio.current_time() + REPROVIDE_INTERVAL
                if missing := part - sent:
                    await self._kademlia.add_providers(
                        self._peer, missing, self._provider_addresses()
                    )
                sent = part
                with trio.move_on_at(renew):
                    await news.wait()

    async def _keep_pinging(self) -> None:
        while True:
            await trio.sleep(PING_INTERVAL)
            try:
                with trio.fail_after(PING_TIMEOUT):
                    await self._ping.ping(self._peer)
            except Exception as error:  # noqa: BLE001 - any failure means the same
                self._lost(f"no pong: {error!r}")


def _contact(entry: Any, *, known: Container[ID] = ()) -> Contact | None:
    if not 2 <= len(entry.id) <= 64:
        return None
    peer = ID(entry.id)
    return Contact(peer, () if peer in known else tuple(_addresses(entry.addrs)))


def _addresses(raw: Sequence[bytes]) -> list[Multiaddr]:
    """Return the valid ones of the first MAX_ADDRESSES addresses."""
    found = []
    for each in raw[:MAX_ADDRESSES]:
        try:
            address = Multiaddr(each)
            str(address)  # py-multiaddr parses lazily
        except Exception:  # noqa: BLE001, S112 - any error means that the address is unusable
            continue
        found.append(address)
    return found


def _fill(target: Any, contacts: Iterable[Contact]) -> None:
    for contact in list(contacts)[:CLOSEST]:
        entry = target.add()
        entry.id = contact.id.to_bytes()
        entry.addrs.extend(address.to_bytes() for address in contact.addresses)
        entry.connection = Message.CONNECTED  # only connected peers are ever named


def _frame(message: Message) -> bytes:
    raw = message.SerializeToString()
    return bytes(varint.encode(len(raw))) + raw


async def _send(stream: Stream, message: Message) -> None:
    await stream.write(_frame(message))


def _reason(error: Exception) -> str:
    known = {"bad-message", "bad-key"}
    return str(error) if str(error) in known else "malformed"
