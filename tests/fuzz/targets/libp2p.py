"""What peers say over libp2p, and where first peers are said to be."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError
from spegel_py.inflight import message_fields, messages
from spegel_py.routing.libp2p import (
    bootstrap_targets,
    frames,
    kademlia,
    member_messages,
    multiaddrs,
)
from spegel_py.routing.libp2p.keys import record_key
from tests.fuzz.mutations import VALUES, as_json, objects
from tests.fuzz.target import target

KEY = b"k" * 32
DIGEST = "sha256:" + "a" * 64
PEER = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"

ADDRESSES = (
    "/ip4/10.0.0.1/tcp/5001",
    f"/ip6/fd00::1/tcp/5001/p2p/{PEER}",
    "/dns/spegel.example/tcp/5001",
    f"/dns4/spegel.example/p2p/{PEER}",
    "/ip4/10.0.0.1/tcp/5000/http",
    "/ip6zone/eth0/ip6/fe80::1/tcp/5001",
    "/ip4/10.0.0.1/udp/5001/quic-v1",
    "/dns/" + "a" * 64 + "/tcp/1",
    "/dns/a..b/tcp/1",
    "/unix/a/b",
)


# Announcements

_FRAMES = (
    frames.Hello(5.0, "10.0.0.1", 5000, "spegel-py/0.1.0", 1764000000.0, True, "cHJvb2Y=", True),
    frames.Hello(5.0, "fd00::1", 5000, floor=2, zone="eu-1a"),
    frames.Hello(5.0, "", 5000),
    frames.SetPart((KEY,), True, True, True),
    frames.Delta(True, (KEY, KEY)),
    frames.Delta(False, (KEY,)),
    frames.Refresh(3, 2**63),
    frames.Goodbye(),
    frames.Resync(),
    frames.Ages(((KEY, 60),)),
)
_HELLOS = as_json(
    objects(
        {
            "interval": st.floats(0.1, 4000),
            "registry": st.sampled_from(
                (
                    ":5000",
                    "10.0.0.1:5000",
                    "[fd00::1]:5000",
                    "[fe80::1%eth0]:5000",
                    "a:1",
                    ":0",
                    "[[[:1",
                )
            ),
            "agent": st.text(max_size=80),
            "time": st.floats(),
            "shares": st.booleans(),
            "pings": st.booleans(),
            "proof": st.text(max_size=80),
        }
    )
).map(lambda body: b"\x01" + body)


@target(
    "announce-frames",
    examples=tuple(frames.encode(each)[4:] for each in _FRAMES),
    refuses=(frames.FrameError,),
    structured=_HELLOS,
)
def _frames(data: bytes) -> None:
    """A frame without its length; then the same bytes with the length that they begin with."""
    if len(data) >= 4:
        with suppress(frames.FrameError):
            frames.frame_length(data[:4])
    if not data:
        return  # a length of 0 is refused before
    frame = frames.decode(data)
    assert frames.decode(frames.encode(frame)[4:]) == frame
    if isinstance(frame, frames.Hello):
        assert math.isfinite(frame.interval)
        assert frame.time is None or math.isfinite(frame.time)
        assert not frame.host or ipaddress.ip_address(frame.host)
        for text in (frame.host, frame.agent, frame.proof):
            assert len(text) <= frames.MAX_AGENT
            assert text.isascii()
            assert not text or text.isprintable()


# What is asked and answered about content in flight

_QUESTIONS = as_json(
    objects(
        {
            "kind": st.sampled_from(("ask", "note", "look")),
            "digest": st.sampled_from((DIGEST, "sha512:" + "b" * 128, DIGEST.upper(), "a")),
            "offset": st.integers(0, 2**63),
            "serves": st.booleans(),
            "held": st.integers(0, 2000),
            "bad": st.just(PEER),
            "why": st.sampled_from([each.value for each in messages.ParentFault]),
            "role": st.sampled_from([each.value for each in messages.Role]),
            "parent": st.just(PEER),
        }
    )
)
_REPLIES = as_json(
    objects(
        {
            "kind": st.sampled_from(("lead", "follow", "wait", "alone", "noted", "shape")),
            "renew": st.floats(0, 700),
            "seconds": st.floats(0, 700),
            "parent": st.just(PEER),
            "depth": st.integers(0, 70),
            "more": st.integers(0, 2**63),
            "places": st.lists(
                objects(
                    {
                        "node": st.just(PEER),
                        "parent": st.integers(0, 3),
                        "role": st.sampled_from([each.value for each in messages.Role]),
                        "offset": st.integers(0, 2**63),
                    }
                ),
                max_size=4,
            ),
        }
    )
)


@target(
    "flight-questions",
    examples=(
        b'{"kind":"ask","digest":"%s","offset":7,"serves":true,"held":2}' % DIGEST.encode(),
        b'{"kind":"ask","digest":"%s","offset":0,"serves":true,"held":0,"bad":"a","why":"slow"}'
        % DIGEST.encode(),
        b'{"kind":"note","digest":"%s","role":"follow","offset":7,"parent":"b"}' % DIGEST.encode(),
        b'{"kind":"look","digest":"%s"}' % DIGEST.encode(),
    ),
    refuses=(message_fields.MessageError,),
    structured=_QUESTIONS,
)
def _questions(data: bytes) -> None:
    question = messages.decode_request(data)
    assert messages.decode_request(messages.encode(question)) == question


@target(
    "flight-replies",
    examples=(
        b'{"kind":"lead","renew":5.0}',
        b'{"kind":"follow","parent":"a","depth":2,"renew":5}',
        b'{"kind":"wait","seconds":0.5}',
        b'{"kind":"alone"}',
        b'{"kind":"noted","renew":5}',
        b'{"kind":"shape","places":[{"node":"a","offset":1},{"node":"b","parent":0,"role":"hold","offset":2}],"more":1}',
    ),
    refuses=(message_fields.MessageError,),
    structured=_REPLIES,
)
def _replies(data: bytes) -> None:
    reply = messages.decode_response(data)
    assert messages.decode_response(messages.encode(reply)) == reply


# Questions about other members


@target(
    "member-messages",
    examples=tuple(
        member_messages.encode(kind, b"\x00\x24\x08\x01\x12\x20" + KEY)
        for kind in member_messages.MemberKind
    ),
    refuses=(ValueError,),
)
def _members(data: bytes) -> None:
    """A question, and the same bytes as an answer."""
    member_messages.decode_answer(data)
    message = member_messages.decode(data)
    assert member_messages.MIN_ID <= len(message.peer) <= member_messages.MAX_ID
    if message.kind is not None:
        assert member_messages.encode(message.kind, message.peer) == data


# Kademlia


def _entry(*addresses: bytes, peer: bytes = b"\x00\x24\x08\x01\x12\x20" + KEY) -> Message.Peer:
    return Message.Peer(id=peer, addrs=addresses)


_RAW_ADDRESSES = tuple(Multiaddr(each).to_bytes() for each in ADDRESSES[:7])
_ENTRIES = st.lists(
    st.builds(
        lambda peer, addresses: _entry(*addresses, peer=peer),
        st.one_of(st.binary(max_size=70), st.just(b"\x12\x20" + KEY)),
        st.lists(st.one_of(st.sampled_from(_RAW_ADDRESSES), st.binary(max_size=40)), max_size=12),
    ),
    max_size=24,
)
_MESSAGES = st.builds(
    lambda kind, key, closer, providers: Message(
        type=kind, key=key, closerPeers=closer, providerPeers=providers
    ).SerializeToString(),
    st.integers(0, 5),
    st.one_of(st.just(record_key(KEY)), st.binary(max_size=40)),
    _ENTRIES,
    _ENTRIES,
)


class _KademliaPeer:
    """A server that keeps what it is told, and answers with it; a client that hears the same bytes
    as an answer.
    """

    def __init__(self) -> None:
        host = mock.create_autospec(BasicHost, instance=True)
        host.get_id.return_value = ID(b"\x00\x24\x08\x01\x12\x20" + b"o" * 32)
        host.get_addrs.return_value = [Multiaddr(ADDRESSES[0])]
        self.told: list[Multiaddr] = []
        self.server = kademlia.KademliaServer(
            host,
            kademlia.KademliaBackend(
                providers=lambda _: [multiaddrs.Contact(host.get_id(), tuple(self.told))],
                closest=lambda _, asking: [multiaddrs.Contact(host.get_id(), tuple(self.told))],
                provide=self._provide,
                dropped=lambda _: None,
            ),
        )

    def _provide(self, _peer: ID, _key: bytes, addresses: Any) -> bool:
        self.told = list(addresses)
        return True


_kademlia_peer = cache(_KademliaPeer)


@target(
    "kademlia-messages",
    examples=(
        Message(type=Message.PING).SerializeToString(),
        Message(type=Message.FIND_NODE, key=b"k").SerializeToString(),
        Message(type=Message.GET_PROVIDERS, key=record_key(KEY)).SerializeToString(),
        Message(
            type=Message.ADD_PROVIDER, key=record_key(KEY), providerPeers=[_entry(*_RAW_ADDRESSES)]
        ).SerializeToString(),
        Message(
            type=Message.FIND_NODE, key=b"k", closerPeers=[_entry(*_RAW_ADDRESSES), _entry()]
        ).SerializeToString(),
    ),
    structured=_MESSAGES,
)
def _kademlia(data: bytes) -> None:
    """The same bytes as a question to a server, and as an answer to a client."""
    message = Message()
    try:
        message.ParseFromString(data)
    except Exception:  # protobuf's; the server counts it, and resets the stream
        return
    peer = _kademlia_peer()
    peer.told = []
    try:
        answer = peer.server._answer(message, ID(b"\x00\x24\x08\x01\x12\x20" + KEY))
    except ValueError as error:
        if str(error) not in ("bad-message", "bad-key"):
            raise
    else:
        assert answer is None or len(answer.SerializeToString()) <= kademlia.MAX_MESSAGE + len(data)
    for entry in (*message.closerPeers, *message.providerPeers):
        contact = kademlia._contact(entry)
        if contact is None:
            continue
        assert len(contact.addresses) <= kademlia.MAX_ADDRESSES
        assert 1 <= multiaddrs.registry_port(contact.addresses, default=5000) <= 65535
        for address in contact.addresses:
            assert Multiaddr(address.to_bytes()) == address
            multiaddrs.strip_peer(address)


# First peers


def _getaddrinfo(name: str, *_: object, **__: object) -> list[Any]:
    """Give every name that can be asked for one address, and raise for others what `socket`
    does.
    """
    name.encode("idna")
    if "\0" in name:
        raise ValueError("embedded null character")
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]


def _check_resolved(addresses: Sequence[str]) -> None:
    async def resolve() -> list[bootstrap_targets.Target]:
        with mock.patch.object(socket, "getaddrinfo", _getaddrinfo):
            return await bootstrap_targets.resolved(addresses, 5001, bootstrap_targets.Resolver())

    for each in asyncio.run(resolve()):
        parts = str(Multiaddr(each.address)).split("/")
        assert parts[1] in ("ip4", "ip6"), each
        assert parts[3] == "tcp", each
        assert 0 <= int(parts[4]) <= 65535, each
        assert each.peer is None or each.peer.isalnum(), each


@target(
    "multiaddrs",
    examples=tuple(each.encode() for each in ADDRESSES[:5]),
    refuses=(ConfigError,),
    structured=st.lists(
        st.one_of(
            st.sampled_from(("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr", "ip6zone", "unix")),
            st.sampled_from(("tcp", "udp", "p2p", "http")),
            st.sampled_from(("10.0.0.1", "::1", "5001", "0", "99999", PEER, "a.b", "a" * 64, "")),
            st.text(max_size=8),
        ),
        max_size=8,
    ).map(lambda parts: "/".join(["", *parts]).encode("utf-8", "surrogatepass")),
)
def _multiaddrs(data: bytes) -> None:
    """An address as an operator writes it: refused, or one to dial comes of it."""
    text = data.decode("utf-8", "surrogateescape")
    _check_resolved([bootstrap_targets.check_multiaddr(text, flag="--flag")])


@target(
    "id-answers",
    examples=(
        json.dumps({"ID": PEER, "Addrs": ADDRESSES[:1]}).encode(),
        json.dumps([{"ID": "", "Addrs": ADDRESSES[:2]}, {"Addrs": []}]).encode(),
    ),
    refuses=(ConfigError,),
    structured=as_json(
        st.one_of(
            st.lists(
                objects(
                    {
                        "ID": st.sampled_from((PEER, "Qm", "", "é")),
                        "Addrs": st.lists(
                            st.one_of(st.sampled_from(ADDRESSES), VALUES), max_size=4
                        ),
                    }
                ),
                max_size=4,
            ),
            objects(
                {"ID": st.just(PEER), "Addrs": st.lists(st.sampled_from(ADDRESSES), max_size=4)}
            ),
        )
    ),
)
def _id_answers(data: bytes) -> None:
    """Another node's `/id`."""
    addresses = bootstrap_targets.read_answer(data)
    assert len(addresses) <= bootstrap_targets.MAX_ANSWERED
    _check_resolved(addresses)


TARGETS = (_frames, _questions, _replies, _kademlia, _multiaddrs, _id_answers)
