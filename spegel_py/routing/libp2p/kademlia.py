"""Kademlia as Spegel speaks it: the DHT's messages over `/spegel/kad/1.0.0`, answered and asked.

py-libp2p's own KadDHT is not used above its message format: it limits providers to ten a time, answers an ADD_PROVIDER
(go-libp2p does not expect that and would take the answer for the next one), keeps records of dead peers for 48 hours
and keys its streams to `/ipfs`. Here records live in the RecordTable, and lookups are one hop, since every node knows
all members.

A provider's registry port travels as one more of its addresses, `/ip4/…/tcp/<port>/http`: standard nodes store and
return it like any other, and one that knows nothing of it (Spegel) is unharmed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import trio
import varint
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import compat
from spegel_py.routing.libp2p.addresses import endpoint
from spegel_py.routing.libp2p.bounds import MessageBudget, place
from spegel_py.routing.libp2p.keys import from_record_key, record_key
from spegel_py.routing.libp2p.streams import MessageReader, Stream, StreamPool, finish, translated

PROTOCOL = TProtocol("/spegel/kad/1.0.0")
CLOSEST = 20
"""Peers named in an answer: Kademlia's k."""
MAX_ADDRESSES = 8
"""Addresses of a peer that are looked at: a host has one or two for each of IPv4 and IPv6."""
MAX_MESSAGE = 1 << 20
"""Largest message in bytes; twenty peers with all their addresses take under 20 KiB."""
ANSWER_COST = 5
"""Messages that count for one that is answered: 20 peers with their addresses are looked up and written."""
IDLE_TIMEOUT = 60.0
"""Seconds a peer may keep a stream open without asking (go-libp2p's own bound)."""
REQUEST_TIMEOUT = 2.0
"""Seconds for one question: a live peer answers in 4 ms, a stopped one never."""
ADD_TIMEOUT = 60.0
"""Seconds for a whole batch of ADD_PROVIDERs to one peer; 10,000 keys take a few."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer id with the addresses it can be dialled at."""

    id: ID
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class KademliaBackend:
    """What the server side needs to know to answer; all are called on the Trio side."""

    providers: Callable[[bytes], list[Contact]]
    """A key's hash → who holds it, this node included."""
    closest: Callable[[bytes], list[Contact]]
    """A raw key (peer id or record key) → the closest connected peers."""
    provide: Callable[[ID, bytes, Sequence[Multiaddr]], bool]
    """Keep a record: provider (always the sender), key's hash, its addresses; False if it was refused."""
    dropped: Callable[[str], None]
    """Count something that was dropped, with the reason."""


class KademliaServer:
    """Answers other nodes' messages."""

    def __init__(self, host: BasicHost, answers: KademliaBackend) -> None:
        self._host = host
        self._answers = answers
        self._budget = MessageBudget()

    async def handle(self, stream: INetStream) -> None:
        """Answer every message of one stream; anything malformed is counted and resets this stream only."""
        sender = stream.muxed_conn.peer_id
        at = place(compat.remote_ip(stream) or "", str(sender))
        reader = MessageReader(stream)
        try:
            while True:
                reader.begin()
                with trio.fail_after(IDLE_TIMEOUT):
                    raw = await read_varint_prefixed_bytes_limited(cast("Any", reader), MAX_MESSAGE)
                message = Message()
                message.ParseFromString(raw)
                await self._budget.spend(
                    at, 1 if message.type == Message.ADD_PROVIDER else ANSWER_COST
                )
                answer = self._answer(message, sender)
                if answer is not None:
                    await _send(stream, answer)
        except trio.TooSlowError:
            await stream.reset()
        except StreamError:
            if reader.is_within:
                self._answers.dropped("half-frame")
            await stream.close()
        except Exception as error:  # noqa: BLE001 - whatever a stranger sends must not end this node
            self._answers.dropped(_reason(error))
            await stream.reset()

    def _answer(self, message: Message, sender: ID) -> Message | None:
        """Return what to send back, or None for a message without an answer; ValueError for a malformed one."""
        kind = message.type
        if kind == Message.ADD_PROVIDER:
            self._add_provider(message, sender)
            return None
        if kind == Message.PING:
            return Message(type=Message.PING)
        if (
            kind not in (Message.FIND_NODE, Message.GET_PROVIDERS, Message.GET_VALUE)
            or not message.key
        ):
            raise ValueError("bad-message")
        answer = Message(type=kind, key=message.key)
        if kind == Message.GET_PROVIDERS and (key := from_record_key(message.key)):
            _fill(answer.providerPeers, self._answers.providers(key))
        near = [contact for contact in self._answers.closest(message.key) if contact.id != sender]
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
                self._answers.dropped("foreign-record")
            elif not self._answers.provide(sender, key, _addresses(entry.addrs)):
                self._answers.dropped("too-many-records")


class KademliaClient:
    """Asks other nodes; every call raises PeerUnreachable when the peer does not answer in time or in form."""

    def __init__(self, host: BasicHost) -> None:
        self._host = host
        self._streams: StreamPool[Message] = StreamPool(host, PROTOCOL, timeout=REQUEST_TIMEOUT)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[KademliaClient]:
        """Answer callers while the block lasts; questions under way are given up at its end."""
        async with self._streams.running():
            yield self

    def forget(self, peer: ID) -> None:
        """Drop the streams kept to a peer that is gone."""
        self._streams.forget(peer)

    async def find_node(self, peer: ID, target: bytes) -> list[Contact]:
        """Return the peers that `peer` knows closest to a raw key, at most as many as an answer may hold."""
        answer = await self._ask(peer, Message(type=Message.FIND_NODE, key=target))
        return [contact for entry in answer.closerPeers[:CLOSEST] if (contact := _contact(entry))]

    async def get_providers(self, peer: ID, key: bytes) -> list[Contact]:
        """Return the providers that `peer` knows of a key's hash."""
        answer = await self._ask(peer, Message(type=Message.GET_PROVIDERS, key=record_key(key)))
        return [contact for entry in answer.providerPeers if (contact := _contact(entry))]

    async def add_providers(
        self, peer: ID, keys: Iterable[bytes], addresses: Sequence[Multiaddr]
    ) -> None:
        """Tell `peer` that this node provides the keys; returns when the peer has taken all of them.

        All go over one stream. The end is certain once the peer closes its side after we closed ours: it has read
        everything then (go-libp2p answers nothing to an ADD_PROVIDER, py-libp2p an echo that is read and ignored).
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
                with compat.shielded(1):
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

    async def _ask(self, peer: ID, question: Message) -> Message:
        async def ask(stream: Stream) -> Message:
            await _send(stream, question)
            answer = Message()
            raw = await read_varint_prefixed_bytes_limited(
                cast("Any", MessageReader(stream)), MAX_MESSAGE
            )
            answer.ParseFromString(raw)
            return answer

        return await self._streams.exchange(peer, ask)


def own_addresses(host: BasicHost) -> tuple[Multiaddr, ...]:
    """Return the addresses this host announces, without the `/p2p` part."""
    return tuple(strip_peer(address) for address in host.get_addrs())


def strip_peer(address: Multiaddr) -> Multiaddr:
    """Return the address without a `/p2p/<id>` part at its end."""
    return Multiaddr(str(address).partition("/p2p/")[0])


def registry_address(peer: Peer) -> Multiaddr:
    """Return a registry's address in the form in which provider records carry it."""
    return Multiaddr(
        f"/ip{ipaddress.ip_address(peer.host).version}/{peer.host}/tcp/{peer.port}/http"
    )


def registry_port(addresses: Iterable[Multiaddr], *, default: int) -> int:
    """Return the port of a provider's registry: that of its `/http` address, else `default`, the one used here.

    The host in that address is not believed: see `location`.
    """
    found = (endpoint(address) for address in addresses if is_registry(address))
    return next((at[1] for at in found if at is not None), default)


def is_registry(address: Multiaddr) -> bool:
    """Return True for the address of a registry, False for one at which libp2p is spoken.

    Nobody can listen on port 0, so with that it is no registry's.
    """
    at = endpoint(address)
    return at is not None and at[1] != 0 and str(address).endswith("/http")


def _contact(entry: Any) -> Contact | None:
    if not 2 <= len(entry.id) <= 64:
        return None
    return Contact(ID(entry.id), tuple(_addresses(entry.addrs)))


def _addresses(raw: Sequence[bytes]) -> list[Multiaddr]:
    """Return the first addresses, those that can be read; the others cost a stranger's message its effect."""
    found = []
    for each in raw[:MAX_ADDRESSES]:
        try:
            address = Multiaddr(each)
            str(address)  # py-multiaddr parses lazily
        except Exception:  # noqa: BLE001, S112 - whatever it raises, it is no address we can use
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
