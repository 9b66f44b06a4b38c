"""The gate before libp2p, with real hosts and sockets: who passes, and what others get to see."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import nacl.bindings
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from libp2p.host.basic_host import BasicHost
from multiaddr import Multiaddr

from spegel_py.errors import PeerUnreachable
from spegel_py.routing.cluster_keys import ClusterKey, KeysMode
from spegel_py.routing.libp2p import compat, dialling, negotiation, network_gate
from spegel_py.routing.libp2p.mesh_swarm import MeshSwarm, is_keyed
from spegel_py.routing.libp2p.network_gate import DEADLINE, KeyNotAccepted, NetworkGate
from spegel_py.routing.libp2p.xsalsa20 import xsalsa20
from tests.unit.routing.hosts import on_trio, running

A, B, C = (ClusterKey(bytes([number]) * 32) for number in (1, 2, 3))
FIRST_LINE = negotiation.line(negotiation.NAME)


class _Strangers(list[tuple[str, str]]):
    def add(self, address: str, why: str) -> None:
        self.append((address, why))


def _host(
    keys: Sequence[ClusterKey] = (),
    mode: KeysMode = KeysMode.REQUIRE,
    strangers: _Strangers | None = None,
) -> BasicHost:
    return compat.build_host(
        Ed25519PrivateKey.generate(),
        announce=list,
        gate=NetworkGate(keys, mode),
        stranger=(strangers if strangers is not None else _Strangers()).add,
    )


async def _dial(host: BasicHost, address: Multiaddr) -> bool:
    """Dial, and return whether the connection is encrypted with a key."""
    peer = await dialling.dial(host, address, expected=None, timeout=3)
    (connection,) = host.get_network().get_connections(peer)
    return is_keyed(connection)


@pytest.mark.parametrize(
    ("dialling_keys", "dialling_mode", "listening_keys", "listening_mode", "keyed"),
    [
        ([], "require", [], "require", False),
        ([A], "off", [], "require", False),
        ([A], "require", [A], "require", True),
        ([A], "accept", [A], "require", True),
        ([A], "accept", [A], "accept", True),
        ([], "require", [A], "accept", False),
        ([A], "accept", [], "require", False),
        ([A], "accept", [B], "accept", False),
        ([A], "require", [A, B], "require", True),
        ([B, A], "require", [A, B], "require", True),
        ([C], "require", [A, B], "require", None),
        ([], "require", [A], "require", None),
        ([A], "require", [], "require", None),
        ([A], "accept", [B], "require", None),
    ],
)
def test_who_passes(
    dialling_keys: list[ClusterKey],
    dialling_mode: str,
    listening_keys: list[ClusterKey],
    listening_mode: str,
    keyed: bool | None,
) -> None:
    """`keyed` says whether the connection is encrypted with a key; None if there is none."""

    async def test() -> None:
        dialling_host = _host(dialling_keys, KeysMode(dialling_mode))
        listening_host = _host(listening_keys, KeysMode(listening_mode))
        async with running(listening_host) as address, running(dialling_host):
            if keyed is None:
                with pytest.raises(PeerUnreachable):
                    await _dial(dialling_host, address)
                assert not listening_host.get_network().get_connections()
            else:
                assert await _dial(dialling_host, address) is keyed

    on_trio(test)


def test_another_key_is_refused_at_once_and_named() -> None:
    async def test() -> None:
        strangers = _Strangers()
        listening, dialler = _host([A], strangers=strangers), _host([B])
        async with running(listening) as address, running(dialler):
            began = time.monotonic()
            with pytest.raises(KeyNotAccepted, match=B.fingerprint):
                await _dial(dialler, address)
            assert time.monotonic() - began < DEADLINE
        assert strangers == [("127.0.0.1", "it has another key, or speaks no libp2p")]

    on_trio(test)


def test_a_peer_without_keys_closes_a_keyed_connection_at_once() -> None:
    """Else each dial to such a peer would wait for a time-out before it is tried in the clear."""

    async def test() -> None:
        listening, dialler = _host(), _host([A], KeysMode.ACCEPT)
        async with running(listening) as address, running(dialler):
            for _ in range(20):  # the nonces are random
                began = time.monotonic()
                peer = await dialling.dial(dialler, address, expected=None, timeout=3)
                assert time.monotonic() - began < 1
                await dialler.disconnect(peer)

    on_trio(test)


@pytest.mark.parametrize(
    "sent",
    [
        FIRST_LINE,
        FIRST_LINE + negotiation.line("/noise"),
        b"\x16\x03\x01" * 20,
        b"GET / HTTP/1.1\r\n" * 4,
    ],
    ids=["libp2p", "noise", "tls", "http"],
)
def test_a_stranger_gets_not_one_byte(sent: bytes) -> None:
    async def test() -> None:
        async with running(_host([A])) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", _port(address))
            await stream.send_all(sent)
            assert await _rest_of(stream) == b""

    on_trio(test)


@pytest.mark.parametrize("sent", [b"", b"\x13", b"x" * 30])
def test_a_stranger_that_sends_too_little_is_closed_after_the_deadline(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_gate, "DEADLINE", 0.2)

    async def test() -> None:
        strangers = _Strangers()
        async with running(_host([A], strangers=strangers)) as address:
            stream = await trio.open_tcp_stream("127.0.0.1", _port(address))
            if sent:
                await stream.send_all(sent)
            with trio.fail_after(5):
                assert await _rest_of(stream) == b""
        assert [why for _, why in strangers] == ["it sent nothing that a member sends within 0.2 s"]

    on_trio(test)


def test_a_recorded_opening_does_not_pass() -> None:
    """What a member has sent opens no second connection: Noise needs this connection's answer."""

    async def test() -> None:
        listening = _host([A])
        async with running(listening) as address, _recording(address) as (relayed, recorded):
            dialler = _host([A])
            async with running(dialler):
                await _dial(dialler, relayed)
            before = len(listening.get_network().get_connections())
            stream = await trio.open_tcp_stream("127.0.0.1", _port(address))
            await stream.send_all(bytes(recorded))
            await _rest_of(stream)
            assert len(listening.get_network().get_connections()) <= before

    on_trio(test)


def test_keys_may_change_while_the_gate_is_in_use() -> None:
    async def test() -> None:
        listening, old, new = _host([A]), _host([A]), _host([B])
        gate = cast("MeshSwarm", listening.get_network()).gate
        async with running(listening) as address, running(old), running(new):
            with pytest.raises(KeyNotAccepted):
                await _dial(new, address)
            gate.keys = (A, B)
            assert await _dial(new, address)
            gate.keys = (B,)
            with pytest.raises(KeyNotAccepted):
                await _dial(old, address)

    on_trio(test)


@given(key=st.binary(min_size=32, max_size=32), nonce=st.binary(min_size=24, max_size=24))
def test_the_cipher_is_that_of_libsodium(key: bytes, nonce: bytes) -> None:
    """libsodium's secretbox encrypts with XSalsa20, after 32 bytes for its authenticator."""
    message = bytes(range(256))
    boxed = nacl.bindings.crypto_secretbox(message, nonce, key)
    cipher = xsalsa20(key, nonce)
    ours = cipher.encrypt(bytes(32)) + cipher.encrypt(message[:7]) + cipher.encrypt(message[7:])
    assert ours[32:] == boxed[16:]


def _port(address: Multiaddr) -> int:
    return int(address.value_for_protocol("tcp") or 0)


async def _rest_of(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:  # closed with bytes unread
        pass
    await stream.aclose()
    return received


@asynccontextmanager
async def _recording(address: Multiaddr) -> AsyncIterator[tuple[Multiaddr, bytearray]]:
    """Yield an address that leads to another one, and the bytes sent there."""
    recorded = bytearray()

    async def relay(incoming: trio.SocketStream) -> None:
        onward = await trio.open_tcp_stream("127.0.0.1", _port(address))

        async def pump(source: trio.SocketStream, sink: trio.SocketStream, copy: bytearray) -> None:
            try:
                while data := await source.receive_some():
                    copy += data
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            await sink.aclose()

        async with onward, trio.open_nursery() as nursery:
            nursery.start_soon(pump, incoming, onward, recorded)
            nursery.start_soon(pump, onward, incoming, bytearray())

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, relay, 0)
        port = listeners[0].socket.getsockname()[1]
        yield Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"), recorded
        nursery.cancel_scope.cancel()
