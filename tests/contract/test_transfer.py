"""What every Upstream must do with good and bad peers, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from spegel_py.errors import PeerError, PeerRefused, PeerStalled, PeerUnreachable
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import ClientGone, Deadlines, PeerRequest, Sink, Upstream
from spegel_py.transfer.client import HTTPUpstream
from tests.unit.mirror.peers import FakePeer

DATA = bytes(range(256)) * 4096
DIGEST = Digest.of(DATA)
QUICK = Deadlines(connect=0.2, first_byte=0.1, stall=0.1, rate_window=0.2)


class MemorySink(Sink):
    """Takes bytes into memory, up to `limit` of them."""

    def __init__(self, limit: int | None = None) -> None:
        self.taken = bytearray()
        self._limit = limit

    @property
    def sent(self) -> int:
        return len(self.taken)

    async def write(self, data: bytes) -> None:
        if self._limit is not None and self.sent + len(data) > self._limit:
            raise ClientGone("enough")
        self.taken += data


@pytest.fixture(params=[HTTPUpstream], ids=["aiohttp"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    async with request.param(deadlines=QUICK, authorization="Basic abc") as client:
        yield client


def blob(**fields: object) -> PeerRequest:
    return PeerRequest(target=f"/v2/app/blobs/{DIGEST}?ns=r.io%3A5000", **fields)  # type: ignore[arg-type]


async def test_a_whole_body_is_passed_on(upstream: Upstream) -> None:
    """The bytes, the size, the type and the digest that the peer sends arrive."""
    fake, sink = FakePeer(DATA, digest=DIGEST), MemorySink()
    async with fake.serve("a") as peer, upstream.open(peer, blob()) as response:
        await response.send(sink)
    assert bytes(sink.taken) == DATA
    assert (response.answer.size, response.answer.digest) == (len(DATA), DIGEST)
    assert response.answer.media_type == "application/octet-stream"


async def test_the_request_is_what_a_mirror_sends(upstream: Upstream) -> None:
    """The peer sees the raw target, the loop guard, every Accept line, the range, and the credentials."""
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
    assert fields["authorization"] == ["Basic abc"]
    assert fields["accept-encoding"] == ["identity"]
    assert "cookie" not in fields


async def test_a_range_is_passed_on(upstream: Upstream) -> None:
    """A range arrives with its place in the whole."""
    async with (
        FakePeer(DATA).serve("a") as peer,
        upstream.open(peer, blob(range=ByteRange(7, 9))) as response,
    ):
        assert await response.read() == DATA[7:10]
    assert (response.answer.start, response.answer.length, response.answer.size) == (7, 3, len(DATA))


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
        await asyncio.wait_for(fake.hung_up.wait(), 1)


async def test_a_cancelled_body_is_hung_up_on(upstream: Upstream) -> None:
    """Cancelling in mid-body closes the connection at once."""
    started = asyncio.Event()
    fake = FakePeer(DATA, cut_at=1000, ending="stall", on_body=started.set)

    async def pull(peer: Peer) -> None:
        async with upstream.open(peer, blob()) as response:
            await response.send(MemorySink())

    async with fake.serve("a") as peer:
        task = asyncio.ensure_future(pull(peer))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(fake.hung_up.wait(), 1)


async def test_a_client_that_leaves_is_not_the_peers_fault(upstream: Upstream) -> None:
    """A sink that ends raises ClientGone through the transfer, not a PeerError."""
    async with FakePeer(DATA).serve("a") as peer, upstream.open(peer, blob()) as response:
        with pytest.raises(ClientGone):
            await response.send(MemorySink(limit=10))


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
        pytest.param(FakePeer(DATA, chunked=True), PeerRefused, id="chunked"),
    ],
)
async def test_a_bad_head_is_an_error_of_the_peer(upstream: Upstream, fake: FakePeer, error: type[PeerError]) -> None:
    """A head that does not come, or is not what was asked, is a PeerError within the deadlines."""
    async with fake.serve("a") as peer, asyncio.timeout(1):
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
    upstream: Upstream, fake: FakePeer, error: type[PeerError]
) -> None:
    """A body that ends short, stalls or trickles is a PeerError, and what came before it was passed on."""
    sink = MemorySink()
    async with fake.serve("a") as peer, asyncio.timeout(2), upstream.open(peer, blob()) as response:
        with pytest.raises(error):
            await response.send(sink)
    assert 0 <= sink.sent < len(DATA)
    assert bytes(sink.taken) == DATA[: sink.sent]


async def test_a_closed_client_reaches_nobody() -> None:
    """After its end the client gives PeerUnreachable, so that a late request ends in a 404."""
    client = HTTPUpstream(deadlines=QUICK)
    with pytest.raises(PeerUnreachable):
        async with client.open(Peer("a", "127.0.0.1", 1), blob()):
            pass
