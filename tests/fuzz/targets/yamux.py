"""Frames of yamux on a connection whose handshake is done, with all protocols behind it."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import trio
import varint
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from structlog.testing import capture_logs

from spegel_py.inflight import messages
from spegel_py.routing.libp2p import (
    announce,
    closing,
    compat,
    dialling,
    frames,
    kademlia,
    request_response,
)
from spegel_py.routing.libp2p.bounds import MAX_STREAMS
from spegel_py.routing.libp2p.keys import record_key
from spegel_py.routing.libp2p.multiaddrs import multiaddr
from spegel_py.routing.libp2p.records import RecordTable
from spegel_py.telemetry.logging import FaultLog
from tests.fuzz.target import Check, Target
from tests.fuzz.targets import libp2p
from tests.support.routers import free_port

T = TypeVar("T")

GIVEN_UP = 20.0
"""Seconds that the node has for anything: the machine may be busy."""

LEFT = 120.0
"""Seconds after which nothing may be left of a connection. py-libp2p reads on when its answers
cannot be written any more, with a pause of 10 ms after each: 64 KiB of pings, whose sender has
left, keep it busy for 55 s.
"""

HELD = MAX_STREAMS * 256 * 1024
"""Bytes that a connection may hold: the window of each of its streams."""

TOGETHER = 100
"""Inputs after which it is seen whether anything is left of them: py-libp2p takes 0.1 s to close a
connection.
"""

FIRST = 1001
"""Number of the first stream: smaller ones belong to the rogue's own host."""

_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


def _frame(
    kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0
) -> bytes:
    return struct.pack(">BBHII", version, kind, flags, stream, length) + body


def _sent(stream: int, body: bytes, flags: int = 0) -> bytes:
    return _frame(_DATA, flags, stream, len(body), body)


def _proposed(protocol: str) -> bytes:
    lines = [f"{each}\n".encode() for each in ("/multistream/1.0.0", protocol)]
    return b"".join(bytes(varint.encode(len(line))) + line for line in lines)


def _prefixed(message: bytes) -> bytes:
    return bytes(varint.encode(len(message))) + message


_SPOKEN = (
    _proposed(kademlia.PROTOCOL) + _prefixed(Message(type=Message.PING).SerializeToString()),
    _proposed(kademlia.PROTOCOL)
    + _prefixed(
        Message(type=Message.GET_PROVIDERS, key=record_key(libp2p.KEY)).SerializeToString()
    ),
    _proposed(announce.PROTOCOL)
    + frames.encode(frames.Hello(5.0, "", 5000))
    + frames.encode(frames.SetPart((libp2p.KEY,), True, True, True))
    + frames.encode(frames.Refresh(7, 7)),
    _proposed(announce.PROTOCOL) + frames.encode(frames.Resync()),
    _proposed(request_response.PROTOCOL) + struct.pack(">H", 2) + b"{}",
    _proposed("/ipfs/id/1.0.0"),
    _proposed("/ipfs/ping/1.0.0") + bytes(32),
    _proposed("ls"),
    b"\x01\xff",
    b"\xff" * 12,
)
_FRAMES = st.one_of(
    st.builds(
        _sent,
        st.sampled_from((FIRST, FIRST + 2, FIRST + 1)),
        st.one_of(st.sampled_from(_SPOKEN), st.binary(max_size=64)),
        st.sampled_from((_SYN, _SYN, 0, _FIN, _RST, _SYN | _FIN)),
    ),
    st.builds(
        _frame,
        st.integers(0, 5),
        st.integers(0, 0xFFFF),
        st.sampled_from((0, 1, FIRST, FIRST + 2, 2**32 - 1)),
        st.sampled_from((0, 1, 256 * 1024, 2**31, 2**32 - 1)),
        st.binary(max_size=8),
        st.sampled_from((0, 0, 0, 1)),
    ),
)
_STREAMS = st.one_of(
    st.lists(_FRAMES, max_size=8).map(b"".join),
    st.integers(0, 300).map(
        lambda n: b"".join(_frame(_WINDOW, _SYN, FIRST + 2 * each, 0) for each in range(n))
    ),
    st.integers(0, 8).map(
        lambda n: _sent(FIRST, _SPOKEN[0], _SYN) + _sent(FIRST, bytes(60_000)) * n
    ),
    st.integers(0, 8).map(
        lambda n: _sent(FIRST, _SPOKEN[5], _SYN) + _sent(FIRST, bytes(60_000)) * n
    ),
)


class _Node:
    """A host with what a node answers, an honest peer of it, and a rogue one."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.node = compat.build_host(
            Ed25519PrivateKey.generate(), announce=list, failed=self.failures.append
        )
        self.honest = compat.build_host(Ed25519PrivateKey.generate(), announce=list)
        self.rogue = compat.build_host(Ed25519PrivateKey.generate(), announce=list)
        self._client = kademlia.KademliaClient(self.honest)
        self._tasks = self._inputs = 0
        handlers: dict[Any, Callable[[Any], Awaitable[None]]] = {
            kademlia.PROTOCOL: kademlia.KademliaServer(self.node, _answers()).handle,
            announce.PROTOCOL: _receiver().handle,
            request_response.PROTOCOL: request_response.RequestResponseHandler(
                request_response.at_once(_answer), lambda _: None
            ).handle,
        }
        for protocol, handler in handlers.items():
            self.node.set_stream_handler(protocol, handler)

    async def live(
        self, started: Callable[[Callable[[bytes], Awaitable[None]]], None], stop: trio.Event
    ) -> None:
        """Run all three until `stop` is set."""
        self._address = multiaddr("127.0.0.1", free_port("127.0.0.1"))
        async with (
            self.node.run([self._address]),
            self.honest.run([]),
            self.rogue.run([]),
            self._client.running(),
        ):
            await dialling.dial(self.honest, self._address, expected=None, timeout=GIVEN_UP)
            await self.receive(b"")
            await self.settle()
            self._tasks = _tasks()
            started(self.receive)
            await stop.wait()
            await self.settle()
            for host in (self.rogue, self.honest, self.node):
                await closing.hang_up_all(host)

    async def receive(self, data: bytes) -> None:
        """Have the rogue send bytes on a new connection, and leave. Raises AssertionError for what
        comes of it.
        """
        with trio.fail_after(GIVEN_UP):
            await dialling.dial(self.rogue, self._address, expected=None, timeout=GIVEN_UP)
            *_, newest = _connections(self.rogue, self.node)
            with suppress(Exception):  # the node has hung up
                await newest._write_frame(data)
            await self._client.find_node(self.node.get_id(), b"any")  # the node goes on
            for each in _connections(self.node, self.rogue):
                assert sum(map(len, each.stream_buffers.values())) <= HELD
                assert len(each.streams) <= MAX_STREAMS
        closing.shut_connections(self.rogue)
        self._inputs += 1
        if self._inputs % TOGETHER == 0:
            await self.settle()
        if failures := [each for each in self.failures if not isinstance(each, UnicodeDecodeError)]:
            self.failures.clear()
            cast("Any", self.node.get_network())._faults = FaultLog(compat.log)
            raise failures[0]

    async def settle(self) -> None:
        """Raise AssertionError if connections or tasks are left of rogues that have gone."""
        closing.shut_connections(self.rogue)
        with trio.move_on_after(LEFT):
            while _connections(self.node, self.rogue) or (self._tasks and _tasks() > self._tasks):
                await trio.sleep(0.001)
        assert not _connections(self.node, self.rogue)
        assert not self._tasks or _tasks() <= self._tasks, f"{_tasks()} tasks, {self._tasks} before"


def _connections(host: BasicHost, other: BasicHost) -> list[Any]:
    return [
        cast("Any", each).muxed_conn for each in host.get_network().get_connections(other.get_id())
    ]


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _answers() -> kademlia.KademliaBackend:
    return kademlia.KademliaBackend(
        providers=lambda _: [],
        closest=lambda _, asking: [],
        provide=lambda *_: True,
        dropped=lambda _: None,
    )


def _receiver() -> announce.AnnounceReceiver:
    return announce.AnnounceReceiver(
        table=RecordTable(rng=random.Random(1)),
        clock=time.monotonic,
        address_of=lambda _: "127.0.0.1",
        claims=lambda *_: None,
        knows_password=lambda *_: False,
        dropped=lambda _: None,
        left=lambda _: None,
        carried=lambda *_: None,
    )


def _answer(_peer: str, question: bytes) -> bytes:
    messages.decode_request(question)
    return messages.encode(messages.FetchUncoordinated())


@contextmanager
def _connected() -> Iterator[Check]:
    """Run a node and its peers in a thread."""
    compat.silence()
    ready, found = threading.Event(), dict[str, Any]()

    async def main() -> None:
        stop = trio.Event()
        found.update(token=trio.lowlevel.current_trio_token(), stop=stop)

        def started(receive: Callable[[bytes], Awaitable[None]]) -> None:
            found.update(receive=receive)
            ready.set()

        await _Node().live(started, stop)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # told to whoever waits
            found.update(error=error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)

    def check(data: bytes) -> None:
        assert thread.is_alive(), found.get("error")
        trio.from_thread.run(found["receive"], data, trio_token=found["token"])
        errors = [each for each in logs if each["log_level"] in ("error", "critical")]
        logs.clear()
        assert not errors, errors[0]

    with capture_logs() as logs:
        thread.start()
        assert ready.wait(GIVEN_UP)
        try:
            yield check
        finally:
            with suppress(trio.RunFinishedError):
                found["token"].run_sync_soon(found["stop"].set)
            thread.join(LEFT + GIVEN_UP)
            assert "error" not in found, found["error"]


TARGETS = (
    Target(
        name="yamux-frames",
        examples=(
            *(_sent(FIRST, spoken, _SYN) for spoken in _SPOKEN[:7]),
            _frame(_PING, _SYN, 0, 7)
            + _frame(_WINDOW, _SYN, FIRST, 0)
            + _frame(_WINDOW, _FIN, FIRST, 0),
            _frame(_WINDOW, _SYN, FIRST, 0) + _sent(FIRST, _SPOKEN[0]) + _frame(_GO_AWAY, 0, 0, 0),
        ),
        open=_connected,
        structured=_STREAMS,
    ),
)
