"""py-libp2p's traps, each shown on the stock parts: a test that fails here says that a work-around
may go.

The second half shows that the host of `compat` does not fall into them.
"""

from __future__ import annotations

import errno
import gc
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import _mk_identify_protobuf
from libp2p.io.msgio import FixedSizeLenMsgReadWriter
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from spegel_py.errors import ConfigError, PeerUnreachable, RouterUnavailable
from spegel_py.routing.libp2p import closing, compat, dialling, mesh_swarm
from spegel_py.routing.libp2p.bounds import MAX_STREAMS, MAX_UNREAD
from spegel_py.routing.libp2p.lean_yamux import LeanYamux
from spegel_py.routing.libp2p.multiaddrs import (
    LOOK_AGAIN,
    OwnAddresses,
    announced_addresses,
    listen_addresses,
    multiaddr,
)
from spegel_py.routing.libp2p.speedups import FastLock, ReadAhead
from spegel_py.tools.addresses import check_port_free
from tests.support.routers import free_port
from tests.unit.routing.hosts import on_trio, ours, running, stock, until

compat.silence()


# The traps, on stock parts


def test_stock_host_offers_plaintext() -> None:
    """Trap 1: a connection may go unencrypted and unauthenticated unless one takes care."""
    offered = [str(each) for each in stock().get_network().upgrader.security_multistream.transports]
    assert any("plaintext" in each for each in offered)


def test_stock_auto_connector_dials_even_with_watermarks_of_zero() -> None:
    """Trap 2: told to keep no connections at all, it connects to every peer it has heard of."""

    async def test() -> None:
        other, host = ours(), stock()
        async with running(other) as address, running(host):
            host.get_peerstore().add_addrs(other.get_id(), [address], 3600)
            await host.get_network().auto_connector.maybe_connect()
            await until(lambda: bool(host.get_connected_peers()))

    on_trio(test)


def test_stock_inbound_slot_is_never_given_back() -> None:
    """Trap 3: a connection that has long been closed still occupies its slot."""

    async def test() -> None:
        host = stock()
        async with running(host) as address:
            await _come_and_go(address, until_seen=host)
            assert host.get_network()._inbound_limiter.borrowed_tokens == 1

    on_trio(test)


def test_stock_stream_dials_whatever_address_is_known() -> None:
    """Trap 19: a stream to a peer that is not connected dials the addresses that it claims."""
    on_trio(lambda: _opens_a_stream(stock(), is_dialled=True))


def test_stock_hosts_share_a_port_silently() -> None:
    """Trap 5: two hosts listen on one port, and neither is told."""

    async def test() -> None:
        port = free_port()
        first, second = stock(), stock()
        async with running(first, port=port), running(second, port=port):
            assert first.get_network().listeners
            assert second.get_network().listeners

    on_trio(test)


def test_stock_host_announces_the_wildcard() -> None:
    """Trap 6: listening on all addresses announces an address that nobody can dial."""

    async def test() -> None:
        host = stock()
        async with running(host, "0.0.0.0") as address:
            assert [str(each).partition("/p2p")[0] for each in host.get_addrs()] == [str(address)]

    on_trio(test)


def test_stock_stream_does_not_know_an_ipv6_remote() -> None:
    """Trap 8: the remote address of an IPv6 connection is None."""

    async def test() -> None:
        async with await _listener() as listener:
            stream = await trio.open_tcp_stream("::1", listener.socket.getsockname()[1])
            async with stream:
                assert TrioTCPStream(stream).get_remote_address() is None

    on_trio(test)


def test_stock_disconnect_forgets_a_connection_that_came_meanwhile() -> None:
    """Trap 12: a peer that connects while its old connection is being closed is connected, and
    nobody knows."""

    async def test() -> None:
        async with _connecting_while_closing(ours()) as (host, peer):
            await host.disconnect(peer)
            assert host.get_network().get_connections(peer) == []

    on_trio(test)


def test_stock_stream_answers_each_read_with_a_frame() -> None:
    """Trap 13: the window of a short message is returned to the sender at once."""

    async def test() -> None:
        async with _stream() as (sender, receiver, sent_back):
            del (
                receiver.muxed_stream._auto_tune_and_send_window_update
            )  # ours: the class has the stock one
            for count in range(1, 4):
                await sender.write(b"message")
                assert await receiver.read(64) == b"message"
                await until(lambda count=count: len(sent_back) == count)  # type: ignore[misc]

    on_trio(test)


def test_stock_connection_reads_twice_for_a_message() -> None:
    """Trap 14: the length of a message is read separately; ours reads all waiting bytes."""

    async def test() -> None:
        assert await _reads_of_a_message(TrioTCPStream) == 2
        assert await _reads_of_a_message(ReadAhead) == 1

    on_trio(test)


def test_stock_locks_give_the_others_a_turn_each() -> None:
    """Trap 15: an update of a window, of which nobody else knows, passes the locks of the stream,
    and lets everybody else run first at each; ours goes on."""

    async def test() -> None:
        async with _stream() as (_, receiver, _sent_back):
            muxed, turns = receiver.muxed_stream, [0]
            assert isinstance(muxed.window_lock, FastLock)
            assert isinstance(muxed.conn.streams_lock, FastLock)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_count_turns, turns)
                await trio.sleep(0)
                assert await _turns_of(FastLock(), turns) == 0
                assert await _turns_of(trio.Lock(), turns) > 0
                nursery.cancel_scope.cancel()

    on_trio(test)


async def _propose_junk(host: Any) -> bool:
    """Propose to a host what is no protocol; say whether it lives on and still talks."""
    guest, lives = ours(), True
    try:
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            stream = await guest.get_network().new_stream(host.get_id())
            await stream.write(b"\x13/multistream/1.0.0\n\x05\xff\xff\xff\xff\n")
            with suppress(StreamError):
                while await stream.read(64):
                    pass
            await (await guest.new_stream(host.get_id(), [TProtocol("/ipfs/ping/1.0.0")])).close()
    except* UnicodeDecodeError:
        lives = False
    return lives


def test_stock_host_dies_of_a_proposal_that_is_no_text() -> None:
    """Trap 16: any peer can end the host with a few bytes; ours resets the stream and goes on."""

    async def test() -> None:
        assert not await _propose_junk(stock())
        assert await _propose_junk(ours())

    on_trio(test)


def test_stock_handler_ends_the_host() -> None:
    """Trap 16: a handler's error ends everything; ours resets the stream, reports it, and goes
    on."""

    async def test(host: Any, failures: list[Exception]) -> bool:
        guest, protocol, lives = ours(), TProtocol("/test"), True

        async def fail(_: INetStream) -> None:
            raise OverflowError("int too large to convert to float")

        try:
            async with running(host) as address, running(guest):
                host.set_stream_handler(protocol, fail)
                await dialling.dial(guest, address, expected=None, timeout=5)
                stream = await guest.new_stream(host.get_id(), [protocol])
                with suppress(StreamError):
                    await stream.write(b"something")
                    await stream.read(1)
                await until(lambda: failures != [])
                await (
                    await guest.new_stream(host.get_id(), [TProtocol("/ipfs/ping/1.0.0")])
                ).close()
        except* (OverflowError, trio.TooSlowError):
            lives = False
        return lives

    async def both() -> None:
        failures: list[Exception] = []
        assert not await test(stock(), [ValueError()])
        host = ours()
        cast("Any", host.get_network()).failed = failures.append
        assert await test(host, failures)
        assert [type(each) for each in failures] == [OverflowError]

    on_trio(both)


async def _overrun(host: Any) -> tuple[bool, int]:
    """Let a peer send 4 MiB on an unread stream with a window of 256 KiB.

    Return True if the connection stands after that, and how many bytes it holds.
    """
    guest, protocol, done = ours(), TProtocol("/test"), trio.Event()

    async def ignore(_: INetStream) -> None:
        await done.wait()

    async with running(host) as address, running(guest):
        host.set_stream_handler(protocol, ignore)
        await dialling.dial(guest, address, expected=None, timeout=5)
        sender: Any = await guest.new_stream(host.get_id(), [protocol])
        [connection] = host.get_network().get_connections(guest.get_id())
        muxed = connection.muxed_conn
        part = bytes(64 * 1024)
        header = struct.pack(">BBHII", 0, 0, 0, sender.muxed_stream.stream_id, len(part))

        def held() -> int:
            return sum(map(len, muxed.stream_buffers.values()))

        with suppress(Exception):
            for _ in range(64):
                await sender.muxed_stream.conn._write_frame(header + part)
        await until(lambda: muxed.is_closed or held() >= 64 * len(part))
        found = not muxed.is_closed, held()
        done.set()
        return found


def test_stock_stream_takes_more_than_its_window() -> None:
    """Trap 17: a peer fills the memory with unread bytes; ours closes the connection."""

    async def test() -> None:
        assert await _overrun(stock()) == (True, 4 << 20)
        stands, held = await _overrun(ours())
        assert not stands
        assert held <= 512 * 1024

    on_trio(test)


def test_a_connection_pings_when_it_is_asked() -> None:
    """Trap 21: several requests before the answer are one ping, and each answer is reported."""

    async def test() -> None:
        host, guest = ours(), ours()
        answered: list[ID] = []
        cast("Any", guest.get_network()).answered = answered.append
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: bool(host.get_network().get_connections(guest.get_id())))
            [own] = cast("list[Any]", guest.get_network().get_connections(host.get_id()))
            for number in range(1, 4):
                compat.ping(own)
                compat.ping(own)
                await until(lambda number=number: len(answered) == number)  # type: ignore[misc]
            assert answered == [host.get_id()] * 3
            assert own.muxed_conn._ping_id == 3
            await closing.hang_up([own])
            compat.ping(own)
            assert own.muxed_conn._ping_id == 3, "a closed connection is not pinged"

    on_trio(test)


def test_a_stock_host_answers_pings() -> None:
    """So do Go nodes and older versions: every implementation of yamux must."""

    async def test() -> None:
        host, guest = stock(), ours()
        answered: list[ID] = []
        cast("Any", guest.get_network()).answered = answered.append
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            [own] = guest.get_network().get_connections(host.get_id())
            compat.ping(own)
            await until(lambda: answered == [host.get_id()])

    on_trio(test)


def test_the_kernel_watches_every_connection() -> None:
    """Trap 26: dialled and accepted sockets have the options, and a stock one has not."""

    async def options(host: Any) -> set[tuple[int, int, int]]:
        guest, found = ours(), set[tuple[int, int, int]]()
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: bool(host.get_network().get_connections(guest.get_id())))
            [connection] = host.get_network().get_connections(guest.get_id())
            raw = connection.muxed_conn.secured_conn.conn
            while not hasattr(raw, "stream"):
                raw = raw.conn
            one = raw.stream.stream.socket
            for level, option, value in mesh_swarm.KEEPALIVE:
                if one.getsockopt(level, option) == value:
                    found.add((level, option, value))
        return found

    async def test() -> None:
        assert await options(ours()) == set(mesh_swarm.KEEPALIVE)
        assert await options(stock()) == set()

    on_trio(test)


def test_a_peer_that_opens_any_number_of_streams_is_hung_up_on() -> None:
    """Our own peers need a handful; each stream that nobody reads may hold its window."""

    async def test() -> None:
        host, guest = ours(), ours()
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: bool(host.get_network().get_connections(guest.get_id())))
            [connection] = host.get_network().get_connections(guest.get_id())
            [back] = cast("Any", guest.get_network().get_connections(host.get_id()))
            for number in range(
                2 * MAX_STREAMS
            ):  # a window update with the flag that opens a stream
                with suppress(Exception):
                    await back.muxed_conn._write_frame(
                        struct.pack(">BBHII", 0, 1, 1, 1001 + 2 * number, 0)
                    )
            await until(lambda: cast("Any", connection).muxed_conn.is_closed)

    on_trio(test)


def test_a_connection_holds_so_much_that_nobody_reads() -> None:
    """Each stream within its window: it is their sum that counts."""

    async def test() -> None:
        host, guest = ours(), ours()
        protocol, done = TProtocol("/test"), trio.Event()

        async def ignore(_: INetStream) -> None:
            await done.wait()

        async with running(host) as address, running(guest):
            host.set_stream_handler(protocol, ignore)
            await dialling.dial(guest, address, expected=None, timeout=5)
            await guest.new_stream(host.get_id(), [protocol])
            [connection] = host.get_network().get_connections(guest.get_id())
            muxed, part = cast("Any", connection).muxed_conn, bytes(64 * 1024)
            with suppress(Exception):
                for _ in range(2 * MAX_UNREAD // (3 * len(part))):
                    stream: Any = await guest.new_stream(host.get_id(), [protocol])
                    for _ in range(3):
                        await stream.write(part)
            await until(lambda: muxed.is_closed)
            assert sum(map(len, muxed.stream_buffers.values())) <= MAX_UNREAD + len(part)
            done.set()

    on_trio(test)


async def _reads_of_a_message(kind: type[TrioTCPStream]) -> int:
    ours_end, theirs = trio.testing.memory_stream_pair()
    reads, receive = 0, ours_end.receive_some

    async def count(most: int | None = None) -> Any:
        nonlocal reads
        reads += 1
        return await receive(most)

    ours_end.receive_some = count  # type: ignore[assignment,method-assign]
    await theirs.send_all(b"\x00\x07message")
    reader = FixedSizeLenMsgReadWriter(kind(ours_end))  # type: ignore[arg-type]
    reader.size_len_bytes = 2
    assert await reader.read_msg() == b"message"
    return reads


async def _count_turns(turns: list[int]) -> None:
    while True:
        turns[0] += 1
        await trio.sleep(0)


async def _turns_of(lock: Any, turns: list[int]) -> int:
    before = turns[0]
    for _ in range(20):  # Trio plays at dice who goes first
        async with lock:
            pass
    return turns[0] - before


@asynccontextmanager
async def _stream() -> AsyncIterator[tuple[Any, Any, list[bytes]]]:
    """Open a stream from one host to another; yields both its ends, and the frames that the
    receiver's sends back."""
    one, two, taken = ours(), ours(), trio.open_memory_channel[Any](1)
    protocol, done = TProtocol("/test"), trio.Event()

    async def take(stream: INetStream) -> None:
        taken[0].send_nowait(stream)
        await done.wait()

    async with running(one) as address, running(two):
        one.set_stream_handler(protocol, take)
        await dialling.dial(two, address, expected=one.get_id(), timeout=5)
        sender: Any = await two.new_stream(one.get_id(), [protocol])
        await sender.write(b"first")
        receiver = await taken[1].receive()
        assert await receiver.read(5) == b"first"
        connection, frames = receiver.muxed_stream.conn, list[bytes]()
        write = connection._write_frame

        async def count(data: bytes) -> None:
            if int.from_bytes(data[4:8]) == receiver.muxed_stream.stream_id:  # not of identify's
                frames.append(data)
            await write(data)

        connection._write_frame = count
        yield sender, receiver, frames
        done.set()


@asynccontextmanager
async def _connecting_while_closing(host: BasicHost) -> AsyncIterator[tuple[BasicHost, ID]]:
    """Run a host with a peer that connects anew as soon as its first connection is closed."""
    guest = ours()
    async with running(host) as address, running(guest):
        await dialling.dial(guest, address, expected=None, timeout=5)
        peer = guest.get_id()
        await until(lambda: bool(host.get_network().get_connections(peer)))
        [old] = host.get_network().get_connections(peer)
        close = old.close

        async def close_and_be_called() -> None:
            old.close = close  # type: ignore[method-assign]
            await close()
            await until(lambda: not guest.get_connected_peers())
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: old not in host.get_network().get_connections(peer) != [])

        old.close = close_and_be_called  # type: ignore[method-assign]
        yield host, peer


async def _listener() -> trio.SocketListener:
    return (await trio.open_tcp_listeners(0, host="::1"))[0]


async def _come_and_go(address: Multiaddr, *, until_seen: Any) -> None:
    guest = ours()
    async with running(guest):
        await dialling.dial(guest, address, expected=None, timeout=5)
        await until(lambda: guest.get_id() in until_seen.get_connected_peers())
    await until(lambda: guest.get_id() not in until_seen.get_connected_peers())


def test_stock_connection_pings_for_itself() -> None:
    """Trap 21: a new connection sends a ping after half a second; ours sends none."""

    async def pings(host: Any) -> list[bytes]:
        guest, seen = ours(), list[bytes]()
        async with running(host) as address, running(guest):
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: bool(host.get_network().get_connections(guest.get_id())))
            [connection] = host.get_network().get_connections(guest.get_id())
            muxed = connection.muxed_conn
            write = muxed._write_frame

            async def record(data: bytes) -> None:
                if data[1] == 2:
                    seen.append(data)
                await write(data)

            muxed._write_frame = record
            with trio.move_on_after(1 if type(muxed) is LeanYamux else 5):
                await until(lambda: seen != [])
        return seen

    async def test() -> None:
        assert await pings(stock())
        assert not await pings(ours())

    on_trio(test)


def test_stock_stream_takes_a_packet_for_each_line() -> None:
    """Trap 22 and 23: opening a stream takes three packets; ours takes one."""

    async def packets(host: Any) -> int:
        guest, protocol, sent = ours(), TProtocol("/test"), 0

        async def answer(stream: INetStream) -> None:
            await stream.write(b"answer")

        async with running(host) as address, running(guest):
            guest.set_stream_handler(protocol, answer)
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: bool(host.get_network().get_connections(guest.get_id())))
            await until(lambda: guest.get_id() in host._identified_peers)
            await until(lambda: host.get_id() in guest._identified_peers)
            await trio.testing.wait_all_tasks_blocked(0.1)  # the ends of both identify streams
            [connection] = host.get_network().get_connections(guest.get_id())
            secured = connection.muxed_conn.secured_conn
            write = secured.write

            async def count(data: bytes) -> None:
                nonlocal sent
                sent += 1
                await write(data)

            secured.write = count
            counts = []
            for _ in range(5):  # an end of an earlier stream may be a packet of its own
                before = sent
                stream = await host.new_stream(guest.get_id(), [protocol])
                assert await stream.read(64) == b"answer"
                counts.append(sent - before)
            return min(counts)

    async def test() -> None:
        assert await packets(stock()) >= 3
        assert await packets(ours()) == 1

    on_trio(test)


def test_stock_identify_message_is_made_for_each_peer() -> None:
    """Trap 24: the same bytes are put together and signed each time; ours are kept."""

    async def test() -> None:
        hosts: list[tuple[Any, bool]] = [(stock(), False), (ours(), True)]
        for host, is_kept in hosts:
            made = [_mk_identify_protobuf(host, None) for _ in range(2)]
            assert made[0] is not made[1]
            if is_kept:
                assert host._own_message() is host._own_message()
                assert host._own_message() == made[0].SerializeToString()

    on_trio(test)


def test_stock_connection_has_tasks_that_wait() -> None:
    """Trap 27: to read it, to write it, and to accept its streams; ours has one."""

    async def tasks_of_a_connection(host: Any) -> int:
        guest = ours()
        async with running(host) as address, running(guest):
            before = _tasks()
            await dialling.dial(guest, address, expected=None, timeout=5)
            await until(lambda: guest.get_id() in host._identified_peers)
            await until(lambda: host.get_id() in guest._identified_peers)
            await trio.testing.wait_all_tasks_blocked(0.1)
            return len(_tasks() - before)

    async def test() -> None:
        both = await tasks_of_a_connection(ours())
        assert both == 3  # each end reads, and the listener has a task for it
        assert await tasks_of_a_connection(stock()) >= both + 2

    on_trio(test)


def _tasks() -> set[trio.lowlevel.Task]:
    """Return the tasks of this event loop."""
    waiting, found = [trio.lowlevel.current_root_task()], set()
    while waiting:
        task = waiting.pop()
        if task is not None:
            found.add(task)
            waiting += [one for nursery in task.child_nurseries for one in nursery.child_tasks]
    return found


# Our host


def test_our_host_gives_inbound_slots_back() -> None:
    """A closed connection frees its slot, so that a node may run for years."""

    async def test() -> None:
        host: Any = ours()
        async with running(host) as address:
            for _ in range(3):
                await _come_and_go(address, until_seen=host)
            await until(lambda: host.get_network()._inbound_limiter.borrowed_tokens == 0)

    on_trio(test)


def test_hanging_up_leaves_a_connection_that_came_meanwhile() -> None:
    """A connection that comes while the old ones are being closed is known, and stays."""

    async def test() -> None:
        async with _connecting_while_closing(ours()) as (host, peer):
            await closing.hang_up(host.get_network().get_connections(peer))
            assert len(host.get_network().get_connections(peer)) == 1

    on_trio(test)


def test_a_window_is_given_back_in_bulk() -> None:
    """Short messages cost no frame, and what is many times as long as the window comes through."""

    async def test() -> None:
        async with _stream() as (sender, receiver, sent_back):
            window = receiver.muxed_stream.target_recv_window
            data = bytes(range(256)) * (3 * window // 256)
            for _ in range(100):
                await sender.write(b"message")
                assert await receiver.read(64) == b"message"
            assert sent_back == []
            got = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.write, data)
                while len(got) < len(data):
                    got += await receiver.read(16384)
            assert got == data
            assert 0 < len(sent_back) <= 6

    on_trio(test)


def test_our_host_dials_nobody_by_itself() -> None:
    """A peer that is only known is not connected to."""

    async def test() -> None:
        other, host = ours(), ours()
        async with running(other) as address, running(host):
            host.get_peerstore().add_addrs(other.get_id(), [address], 3600)
            await host.get_network().auto_connector.maybe_connect()  # type: ignore[attr-defined]
            assert host.get_connected_peers() == []

    on_trio(test)


def test_our_host_offers_noise_only() -> None:
    """Neither plaintext nor anything else that is not Noise is on offer."""
    network: Any = ours().get_network()
    assert [str(each) for each in network.upgrader.security_multistream.transports] == ["/noise"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_dial_learns_the_id_and_both_ends_know_the_address(address: str) -> None:
    """Without knowing whom it dials, the handshake tells; and both ends know the other's IP, of
    either family."""

    async def test() -> None:
        one, two = ours(), ours()
        async with running(one, address) as target, running(two, address):
            peer = await dialling.dial(two, target, expected=None, timeout=5)
            assert peer == one.get_id()
            await until(lambda: two.get_id() in one.get_connected_peers())
            for host, other in ((one, two), (two, one)):
                connection = host.get_network().get_connections(other.get_id())[0]
                assert mesh_swarm.remote_ip(connection) == address

    on_trio(test)


def test_a_dial_that_is_cancelled_leaves_no_socket() -> None:
    """A node that ends in the middle of a handshake hangs up on the other side at once."""

    async def test() -> None:
        host = ours()
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with running(host), listener, trio.open_nursery() as nursery:
            target = multiaddr("127.0.0.1", port)
            nursery.start_soon(lambda: dialling.dial(host, target, expected=None, timeout=20))
            stream = await listener.accept()
            assert await stream.receive_some()  # the handshake has begun
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.fail_after(5):
                while await stream.receive_some():
                    pass
                await stream.aclose()

    on_trio(test)


def test_a_dial_refuses_somebody_else_itself_and_nobody() -> None:
    """Another id than expected, this node itself, and a closed port are PeerUnreachable with the
    reason."""

    async def test() -> None:
        one, two = ours(), ours()
        async with running(one) as target, running(two) as own:
            with pytest.raises(PeerUnreachable, match="expected"):
                await dialling.dial(two, target, expected=ID(b"\x00\x01x"), timeout=5)
            with pytest.raises(PeerUnreachable, match="this node itself"):
                await dialling.dial(two, own, expected=None, timeout=5)
            with pytest.raises(PeerUnreachable, match="cannot connect"):
                await dialling.dial(
                    two, multiaddr("127.0.0.1", free_port()), expected=None, timeout=5
                )
            assert two.get_connected_peers() == []

    on_trio(test)


def test_a_dial_to_somebody_silent_ends() -> None:
    """A port that accepts and never speaks costs the deadline, no more."""

    async def test() -> None:
        host = ours()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with running(host):
                with pytest.raises(PeerUnreachable, match=r"within 0\.2 s"):
                    await dialling.dial(
                        host,
                        multiaddr("127.0.0.1", silent.getsockname()[1]),
                        expected=None,
                        timeout=0.2,
                    )

    on_trio(test)


def test_a_taken_port_is_noticed() -> None:
    """A port in use is a ConfigError with its flag, even where the other side allows sharing."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--router-addr"):
            check_port_free("127.0.0.1", taken.getsockname()[1], flag="--router-addr")


def test_a_wildcard_announces_addresses_that_can_be_dialled() -> None:
    """Listening everywhere announces no wildcard, and loopback only where there is nothing else."""
    hosts = [
        ipaddress.ip_address(str(each).split("/")[2]) for each in announced_addresses("", 5001)
    ]
    assert hosts
    assert not any(host.is_unspecified for host in hosts)
    assert all(host.is_loopback for host in hosts) or not any(host.is_loopback for host in hosts)


def test_addresses_that_come_later_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that started before its network announces its address once it has one."""
    now, has_network = [0.0], [False]

    def interfaces() -> dict[str, list[object]]:
        hosts = ["127.0.0.1", *(["10.0.0.1"] if has_network[0] else [])]
        return {"eth0": [SimpleNamespace(family=socket.AF_INET, address=host) for host in hosts]}

    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"eth0": SimpleNamespace(isup=True)})
    monkeypatch.setattr(psutil, "net_if_addrs", interfaces)
    own = OwnAddresses("", 5001, clock=lambda: now[0])
    assert [str(each) for each in own()] == ["/ip4/127.0.0.1/tcp/5001"]
    has_network[0], now[0] = True, LOOK_AGAIN
    assert [str(each) for each in own()] == ["/ip4/10.0.0.1/tcp/5001"]


def test_without_ipv6_a_node_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel started with ipv6.disable=1 has no IPv6 sockets."""
    real = socket.socket

    def no_ipv6(family: int = -1, *args: int, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **options)

    monkeypatch.setattr(socket, "socket", no_ipv6)
    assert [str(each) for each in listen_addresses("", 5001)] == ["/ip4/0.0.0.0/tcp/5001"]


def test_the_self_test_passes_here_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With this version all is as needed; a private part that is gone is named."""
    compat.self_test()
    monkeypatch.delattr(Swarm, "add_conn")
    with pytest.raises(RouterUnavailable, match=r"Swarm\.add_conn"):
        compat.self_test()


def test_a_socket_that_nobody_knows_of_any_more_is_closed() -> None:
    """A connection that py-libp2p drops unclosed is closed with its last reference, not by the
    collector."""
    swarm: Any = compat.build_host(Ed25519PrivateKey.generate(), announce=list).get_network()
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()

    async def lose() -> None:
        swarm.track(
            RawConnection(
                TrioTCPStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours))), True
            )
        )

    trio.run(lose)
    gc.collect()
    with theirs:
        assert (ours.fileno(), theirs.recv(1)) == (-1, b"")
    assert not list(swarm.raws)


def test_a_stream_dials_no_address_that_a_peer_claims() -> None:
    """Trap 19: only the mesh dials, at addresses that it has checked."""
    on_trio(lambda: _opens_a_stream(ours(), is_dialled=False))


async def _opens_a_stream(host: BasicHost, *, is_dialled: bool) -> None:
    """Open a stream to a peer that is not connected, and see whether its address is dialled."""
    dialled = trio.Event()
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = multiaddr(*listener.socket.getsockname())

    async def hang_up(stream: trio.SocketStream) -> None:
        dialled.set()
        await stream.aclose()

    async with running(host), trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang_up, [listener])
        peer = stock().get_id()
        host.get_peerstore().add_addrs(peer, [address], 3600)
        with pytest.raises(SwarmException):
            await host.new_stream(peer, [TProtocol("/test")])
        if is_dialled:
            await dialled.wait()
        assert dialled.is_set() == is_dialled
        nursery.cancel_scope.cancel()
