"""What every Upstream must do with good and bad peers, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from spegel_py.errors import (
    PeerError,
    PeerRefused,
    PeerStalled,
    PeerUnencrypted,
    PeerUnreachable,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import ClientGone, Deadlines, PeerRequest, Upstream, UpstreamResponse
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.peer_tls import PeerTls, TlsMode
from tests.contract.clients import MemorySink, SeenSink, SocketSink
from tests.support.certificates import Authority, contexts
from tests.unit.mirror.peers import FakePeer

DATA = bytes(range(256)) * 4096
DIGEST = Digest.of(DATA)
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
QUICK = Deadlines(connect=1.0, first_byte=0.5, stall=0.3, rate_window=0.6)
PATIENT = Deadlines(connect=10, first_byte=10, stall=10, rate_window=10)


pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


@dataclass(frozen=True)
class Way:
    """How a body gets from a peer to a client."""

    is_copying: bool
    sink: Callable[[], MemorySink] | Callable[[], SocketSink]
    tls: PeerTls | None = None

    def upstream(self, deadlines: Deadlines = PATIENT) -> HTTPUpstream:
        return HTTPUpstream(
            deadlines=deadlines,
            authorization="Basic abc",
            tls=self.tls,
            is_copying=self.is_copying,
        )

    async def pulled(self, response: UpstreamResponse) -> bytes:
        """Return what the client gets of a body."""
        sink = self.sink()
        try:
            await response.send(sink)
        finally:
            await sink.close()
        assert sink.sent == len(sink.taken)
        return bytes(sink.taken)


WAYS = {
    "by the kernel": Way(is_copying=False, sink=SocketSink.connect),
    "seen on its way": Way(is_copying=False, sink=SeenSink.connect),
    "copied": Way(is_copying=True, sink=SocketSink.connect),
    "without a socket": Way(is_copying=False, sink=MemorySink),
}
WITH_TLS = {
    "by a thread, over TLS": WAYS["by the kernel"],
    "copied, over TLS": WAYS["copied"],
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Authority().write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=[*WAYS, *WITH_TLS])
def way(request: pytest.FixtureRequest, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Way:
    if request.param in WAYS:
        return WAYS[request.param]
    monkeypatch.setattr(FakePeer, "default_tls", contexts(certificates)[0])
    return replace(WITH_TLS[request.param], tls=PeerTls(certificates, mode=TlsMode.REQUIRE))


@pytest.fixture
async def upstream(way: Way) -> AsyncIterator[Upstream]:
    async with way.upstream() as client:
        yield client


def blob(**fields: object) -> PeerRequest:
    return PeerRequest(target=f"/v2/app/blobs/{DIGEST}?ns=r.io%3A5000", **fields)  # type: ignore[arg-type]


async def test_a_whole_body_is_passed_on(way: Way, upstream: Upstream) -> None:
    """The bytes, the size, the type and the digest that the peer sends arrive."""
    fake = FakePeer(DATA, digest=DIGEST)
    async with fake.serve("a") as peer, upstream.open(peer, blob()) as response:
        assert await way.pulled(response) == DATA
    assert (response.answer.size, response.answer.digest) == (len(DATA), DIGEST)
    assert response.answer.media_type == "application/octet-stream"


async def test_the_request_is_what_a_mirror_sends(upstream: Upstream) -> None:
    """The peer sees the raw target, the loop guard, every Accept line and the range.

    As a stranger it sees no password.
    """
    fake = FakePeer(DATA)
    async with (
        fake.serve("a") as peer,
        upstream.open(peer, blob(accept=("a/b", "c/d"), range=ByteRange(5, None))) as response,
    ):
        await response.read()
    [(line, fields)] = fake.requests
    assert line == f"GET /v2/app/blobs/{DIGEST}?ns=r.io%3A5000 HTTP/1.1"
    assert fields["x-spegel-mirrored"] == ["true"]
    assert fields["accept"] == ["a/b", "c/d"]
    assert fields["range"] == ["bytes=5-"]
    assert fields["accept-encoding"] == ["identity"]
    assert not {"authorization", "cookie"} & fields.keys()


async def test_a_peer_that_knows_the_password_is_sent_it(upstream: Upstream) -> None:
    """Its registry asks for it."""
    fake = FakePeer(DATA)
    async with (
        fake.serve("a") as peer,
        upstream.open(replace(peer, knows_password=True), blob()) as response,
    ):
        await response.read()
    [(_, fields)] = fake.requests
    assert fields["authorization"] == ["Basic abc"]


async def test_a_range_is_passed_on(upstream: Upstream) -> None:
    """A range arrives with its place in the whole."""
    async with (
        FakePeer(DATA).serve("a") as peer,
        upstream.open(peer, blob(range=ByteRange(7, 9))) as response,
    ):
        assert await response.read() == DATA[7:10]
    assert (response.answer.start, response.answer.length, response.answer.size) == (
        7,
        3,
        len(DATA),
    )


async def test_a_head_has_no_body(upstream: Upstream) -> None:
    """A HEAD gives the size without the bytes."""
    fake = FakePeer(DATA, digest=DIGEST)
    async with fake.serve("a") as peer, upstream.open(peer, blob(head=True)) as response:
        assert response.answer.size == len(DATA)
    assert fake.requests[0][0].startswith("HEAD ")


async def test_a_connection_is_used_again(upstream: Upstream) -> None:
    """Two requests after each other go over one connection."""
    fake = FakePeer(DATA)
    async with fake.serve("a") as peer:
        for _ in range(2):
            async with upstream.open(peer, blob()) as response:
                await response.read()
        assert len(fake.requests) == 2
        assert not fake.hung_up.is_set()


async def test_a_body_left_early_is_hung_up_on(upstream: Upstream) -> None:
    """Leaving before the end closes the connection at once: the peer must not send the rest."""
    fake = FakePeer(DATA, cut_at=1000, ending="stall")
    async with fake.serve("a") as peer:
        async with upstream.open(peer, blob()):
            pass
        await asyncio.wait_for(fake.hung_up.wait(), 5)


async def test_a_cancelled_body_is_hung_up_on(way: Way, upstream: Upstream) -> None:
    """Cancelling in mid-body closes the connection at once."""
    started = asyncio.Event()
    fake = FakePeer(DATA, cut_at=1000, ending="stall", on_body=started.set)

    async def pull(peer: Peer) -> None:
        async with upstream.open(peer, blob()) as response:
            await way.pulled(response)

    async with fake.serve("a") as peer:
        task = asyncio.ensure_future(pull(peer))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(fake.hung_up.wait(), 5)


@pytest.mark.parametrize(
    "make", [MemorySink, SocketSink.connect], ids=["in memory", "over a socket"]
)
async def test_a_client_that_leaves_is_not_the_peers_fault(
    way: Way, make: Callable[[int], MemorySink | SocketSink]
) -> None:
    """A sink that ends raises ClientGone through the transfer, not a PeerError."""
    sink, fake = make(10), FakePeer(DATA * 16)
    async with (
        fake.serve("a") as peer,
        way.upstream() as upstream,
        upstream.open(peer, blob()) as response,
    ):
        with pytest.raises(ClientGone):
            await response.send(sink)
    await sink.close()


async def test_a_port_where_nobody_listens_is_unreachable(upstream: Upstream) -> None:
    """A refused connection is PeerUnreachable."""
    async with FakePeer().serve("a") as peer:
        pass
    with pytest.raises(PeerUnreachable):
        async with upstream.open(peer, blob()):
            pass


@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503])
async def test_a_refusal_is_told_with_its_status(upstream: Upstream, status: int) -> None:
    """Any status that is not the content is PeerRefused, redirects included."""
    fake = FakePeer(b"no", status=status, headers={"Location": "/elsewhere"})
    async with fake.serve("a") as peer:
        with pytest.raises(PeerRefused) as refused:
            async with upstream.open(peer, blob()):
                pass
    assert refused.value.status == status
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("fake", "error"),
    [
        pytest.param(FakePeer(silent=True), PeerStalled, id="accepts and never answers"),
        pytest.param(FakePeer(raw=b""), PeerUnreachable, id="hangs up"),
        pytest.param(FakePeer(raw=b"SSH-2.0-OpenSSH\r\n\r\n"), PeerRefused, id="not HTTP"),
        pytest.param(FakePeer(DATA, ignores_range=True), PeerRefused, id="200 for a range"),
        pytest.param(FakePeer(DATA, extra_size=1), PeerRefused, id="wrong total"),
        pytest.param(FakePeer(DATA, headers={"X": "y" * 40_000}), PeerRefused, id="long header"),
        pytest.param(
            FakePeer(DATA, headers={f"X-{n}": "y" for n in range(9000)}),
            PeerRefused,
            id="many headers",
        ),
        pytest.param(FakePeer(raw=EARLY * 2000), PeerRefused, id="1xx for ever"),
        pytest.param(FakePeer(raw=b"\0" * 100_000), PeerRefused, id="zeros"),
        pytest.param(
            FakePeer(raw=b"HTTP/1.1 200 OK\r\nContent-Le"), PeerUnreachable, id="half a head"
        ),
        pytest.param(
            FakePeer(raw=b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n"),
            PeerRefused,
            id="another protocol",
        ),
    ],
)
async def test_a_bad_head_is_an_error_of_the_peer(
    way: Way, fake: FakePeer, error: type[PeerError]
) -> None:
    """A head that does not come, or is not what was asked, is a PeerError within the deadlines."""
    async with fake.serve("a") as peer, way.upstream(QUICK) as upstream, asyncio.timeout(5):
        with pytest.raises(error):
            async with upstream.open(peer, blob(range=ByteRange(5, None), size=len(DATA))):
                pass


@pytest.mark.parametrize(
    ("fake", "error"),
    [
        pytest.param(FakePeer(DATA, cut_at=1000, ending="fin"), PeerUnreachable, id="ends short"),
        pytest.param(FakePeer(DATA, cut_at=1000, ending="rst"), PeerUnreachable, id="resets"),
        pytest.param(FakePeer(DATA, cut_at=1000, ending="stall"), PeerStalled, id="stalls"),
        pytest.param(FakePeer(DATA, cut_at=1000, ending="trickle"), PeerStalled, id="trickles"),
    ],
)
async def test_a_body_that_breaks_is_an_error_of_the_peer(
    way: Way, fake: FakePeer, error: type[PeerError]
) -> None:
    """A body that ends short, stalls or trickles is a PeerError.

    The bytes before it were passed on.
    """
    sink = way.sink()
    async with (
        fake.serve("a") as peer,
        way.upstream(QUICK) as upstream,
        asyncio.timeout(5),
        upstream.open(peer, blob()) as response,
    ):
        with pytest.raises(error):
            await response.send(sink)
    await sink.close()
    assert 0 <= sink.sent < len(DATA)
    assert bytes(sink.taken) == DATA[: sink.sent]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("stall", [None, 5.0])
async def test_a_peer_that_stays_slow_is_left(
    way: Way, is_chunked: bool, stall: float | None
) -> None:
    """Though it is above the minimum rate; but not where it is still getting the content itself."""
    data = DATA * 2
    deadlines = replace(QUICK, min_rate=1000, floors=((0.2, 100_000),))
    sink = way.sink()
    async with (
        FakePeer(data, rate=20_000, chunked=is_chunked).serve("a") as peer,
        way.upstream(deadlines) as client,
        client.open(peer, blob(size=len(data), stall=stall)) as response,
    ):
        sending = asyncio.ensure_future(response.send(sink))
        await asyncio.wait({sending}, timeout=5.0 if stall is None else 1.5)
        assert sending.done() == (stall is None)
        sending.cancel()
        [error] = await asyncio.gather(sending, return_exceptions=True)
    assert isinstance(error, PeerStalled if stall is None else asyncio.CancelledError)
    await sink.close()
    assert 0 < sink.sent < len(data)


async def test_a_closed_client_reaches_nobody() -> None:
    """After its end the client gives PeerUnreachable, so that a late request ends in a 404."""
    client = HTTPUpstream(deadlines=QUICK)
    with pytest.raises(PeerUnreachable):
        async with client.open(Peer("a", "127.0.0.1", 1), blob()):
            pass


# Heads and connections


def whole(data: bytes, *lines: str, status: str = "200 OK") -> bytes:
    """Return an answer as it stands on the wire."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + data


@pytest.mark.parametrize(
    "early",
    [b"HTTP/1.1 100 Continue\r\n\r\n", EARLY, EARLY * 3 + b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["100", "103", "several"],
)
async def test_provisional_answers_are_passed_over(
    way: Way, upstream: Upstream, early: bytes
) -> None:
    """A 1xx before the answer is not the answer."""
    async with (
        FakePeer(raw=early + whole(DATA)).serve("a") as peer,
        upstream.open(peer, blob()) as response,
    ):
        assert await way.pulled(response) == DATA


@pytest.mark.parametrize("size", [1, 7, 100, 65536])
async def test_an_answer_may_come_in_pieces(way: Way, size: int) -> None:
    """However the head is cut, and wherever the body begins, the bytes are the same."""
    answer = whole(DATA[:400_000], "X-Filler: " + "y" * 100)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, 300, size):
            writer.write(answer[at : min(at + size, 300)])
            await asyncio.sleep(0)
        writer.write(answer[300:])
        await reader.read()

    async with (
        listening(talk) as peer,
        way.upstream() as upstream,
        upstream.open(peer, blob()) as response,
    ):
        assert await way.pulled(response) == DATA[:400_000]


async def test_bytes_beyond_the_body_are_not_taken_for_an_answer(
    way: Way, upstream: Upstream
) -> None:
    """A peer that sends more than it said gets the body passed on, and the connection closed."""
    answers = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        await reader.readuntil(b"\r\n\r\n")
        answers += 1
        writer.write(whole(DATA) + whole(b"smuggled"))
        await reader.read()

    async with listening(talk) as peer:
        for number in range(3):
            async with upstream.open(peer, blob()) as response:
                assert await way.pulled(response) == DATA
            assert answers == number + 1


async def test_a_chunked_body_of_known_length_is_passed_on(way: Way, upstream: Upstream) -> None:
    """A proxy between two nodes may chunk.

    The length is known from the range, or from the request.
    """
    async with FakePeer(DATA, chunked=True).serve("a") as peer:
        async with upstream.open(peer, blob(size=len(DATA))) as response:
            assert await way.pulled(response) == DATA
        async with upstream.open(peer, blob(range=ByteRange(5, None))) as response:
            assert await way.pulled(response) == DATA[5:]
        with pytest.raises(PeerRefused):
            async with upstream.open(peer, blob()):
                pass


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        pytest.param(b"5\r\nabcde\r\n0\r\n\r\n", PeerRefused, id="shorter"),
        pytest.param(b"f\r\nabcdefghijklmno\r\n0\r\n\r\n", PeerRefused, id="longer"),
        pytest.param(b"5\r\nabcde\r\n", PeerUnreachable, id="without its end"),
        pytest.param(b"5\r\nabcdefg", PeerRefused, id="not chunks"),
    ],
)
async def test_a_chunked_body_that_is_wrong_is_an_error(
    way: Way, upstream: Upstream, chunks: bytes, error: type[PeerError]
) -> None:
    """Chunks that are not as long together as the peer said are not taken for the body."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    async with (
        FakePeer(raw=answer).serve("a") as peer,
        upstream.open(peer, blob(size=10)) as response,
    ):
        with pytest.raises(error):
            await way.pulled(response)


async def test_a_kept_connection_that_ended_is_replaced(way: Way, upstream: Upstream) -> None:
    """The connection ended before the request or in answer to it. The request is made once more."""
    hang_up = asyncio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(DATA))
        if hang_up.is_set():
            return
        await reader.readuntil(b"\r\n\r\n")  # hangs up on the second request
        writer.transport.abort()

    async with listening(talk) as peer:
        for expected in (1, 2, 3):
            if expected == 3:
                hang_up.set()
            async with upstream.open(peer, blob()) as response:
                assert await way.pulled(response) == DATA
            assert connections == expected


async def test_a_request_is_repeated_once_only(way: Way, upstream: Upstream) -> None:
    """A new connection that is hung up on is the peer's failure."""
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections == 1:
            writer.write(whole(DATA))
            await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with listening(talk) as peer:
        async with upstream.open(peer, blob()) as response:
            await way.pulled(response)
        with pytest.raises(PeerUnreachable):
            async with upstream.open(peer, blob()):
                pass
        assert connections == 2


@pytest.mark.parametrize(
    "answer",
    [whole(DATA, "Connection: close"), whole(DATA).replace(b"HTTP/1.1", b"HTTP/1.0")],
    ids=["close", "HTTP/1.0"],
)
async def test_a_connection_that_the_peer_ends_is_not_kept(
    way: Way, upstream: Upstream, answer: bytes
) -> None:
    """After the last answer on a connection a new one is made. Nothing is sent on the old one."""
    connections = requests = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, requests
        connections += 1
        while await reader.read(65536):
            requests += 1
            writer.write(answer)

    async with listening(talk) as peer:
        for _ in range(2):
            async with upstream.open(peer, blob()) as response:
                assert await way.pulled(response) == DATA
    assert (connections, requests) == (2, 2)


async def test_a_peer_may_have_a_name(way: Way, upstream: Upstream) -> None:
    """A peer whose host is a name is reached."""
    async with (
        FakePeer(DATA).serve("a") as peer,
        upstream.open(replace(peer, host="localhost"), blob()) as response,
    ):
        assert await way.pulled(response) == DATA


async def test_a_name_without_an_address_is_unreachable(upstream: Upstream) -> None:
    """A host that nobody knows is PeerUnreachable."""
    with pytest.raises(PeerUnreachable):
        async with upstream.open(Peer("a", "no.such.host.invalid", 1, has_tls=True), blob()):
            pass


# TLS


async def test_a_peer_is_asked_by_tls_only_if_it_said_so(
    certificates: Path, tmp_path: Path
) -> None:
    """A peer that does not speak TLS then, or has no certificate of the authority, is unreachable.

    Nothing of the request is sent to it.
    """
    tls, clear = PeerTls(certificates, mode=TlsMode.ACCEPT), FakePeer(DATA)
    other = FakePeer(DATA, tls=contexts(Authority().write(tmp_path))[0])
    async with (
        HTTPUpstream(deadlines=QUICK, tls=tls) as upstream,
        clear.serve("a") as peer,
        other.serve("b") as stranger,
    ):
        async with upstream.open(peer, blob()) as response:
            assert await response.read() == DATA
        clear.requests.clear()
        for each in (replace(peer, host="localhost", has_tls=True), stranger):
            with pytest.raises((PeerUnreachable, PeerStalled)):
                async with upstream.open(each, blob()):
                    pass
    assert not clear.requests
    assert not other.requests


async def test_a_peer_without_tls_is_not_asked_where_it_is_required(certificates: Path) -> None:
    tls, fake = PeerTls(certificates, mode=TlsMode.REQUIRE), FakePeer(DATA)
    async with HTTPUpstream(deadlines=QUICK, tls=tls) as upstream, fake.serve("a") as peer:
        with pytest.raises(PeerUnencrypted):
            async with upstream.open(peer, blob()):
                pass
    assert not fake.requests


async def test_new_certificates_are_used_for_new_connections(tmp_path: Path) -> None:
    """Open connections go on with the old ones."""
    old, new = Authority(), Authority(name="new")
    tls, fake = PeerTls(old.write(tmp_path / "own"), mode=TlsMode.REQUIRE), FakePeer(DATA)
    fake.tls = contexts(old.write(tmp_path / "peer"))[0]
    changed = FakePeer(DATA, tls=contexts(new.write(tmp_path / "new"))[0])
    async with (
        HTTPUpstream(deadlines=PATIENT, tls=tls) as upstream,
        fake.serve("a") as peer,
        changed.serve("b") as other,
    ):
        for _ in range(2):
            async with upstream.open(peer, blob()) as response:
                assert await response.read() == DATA
            new.write(tmp_path / "own")
            await tls.look()
        async with upstream.open(other, blob()) as response:
            assert await response.read() == DATA


@asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Peer]:
    """Serve a peer whose side of each connection is `talk`."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(run(reader, writer)))

    tls = FakePeer.default_tls
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Peer("a", "127.0.0.1", port, has_tls=tls is not None)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
