"""Blobs that are verified on their way, and the peers that sent wrong ones."""

from __future__ import annotations

from contextlib import nullcontext
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from spegel_py.errors import BlobUnknown, DigestMismatch
from spegel_py.mirror.verification import (
    HELD_BACK,
    MAX_REMEMBERED,
    SAMPLED_ONE_IN,
    SUSPICIOUS_WITHIN,
    VerificationPolicy,
    Verify,
    VerifyingSink,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import Deadlines, PeerRequest, Sink
from spegel_py.transfer.client import HTTPUpstream
from tests.contract.clients import SocketSink
from tests.unit.mirror.lab import LARGE, SMALL, Lab, MemorySink, blob, start_lab
from tests.unit.mirror.peers import FakePeer

WRONG = LARGE[:-1] + b"!"
VERIFIED = "spegel_verified_blobs_total"


class Never(Random):
    """Excludes everything from a sample."""

    def randrange(self, *_: object) -> int:
        return 1


def verifying(data: bytes) -> tuple[VerifyingSink, MemorySink]:
    sink = MemorySink()
    return VerifyingSink(
        sink, digest=Digest.of(data), size=len(data), on_verified=lambda is_right: None
    ), sink


@given(st.lists(st.integers(1, HELD_BACK), min_size=1, max_size=4), st.integers(1, 3 * HELD_BACK))
async def test_the_end_is_held_back_until_all_was_seen(pieces: list[int], extra: int) -> None:
    """However the bytes come, at most 16 KiB are held back.

    The last byte passes only if all bytes are right.
    """
    data = bytes(sum(pieces)) + b"e" * extra
    verifier, sink = verifying(data)
    at = 0
    for length in [*pieces, extra]:
        assert sink.sent == min(at, max(0, len(data) - HELD_BACK))
        assert verifier.sent == at
        await verifier.write(data[at : at + length])
        at += length
    assert bytes(sink.taken) == data


async def test_the_end_of_wrong_content_does_not_pass() -> None:
    """With the last byte the sink raises DigestMismatch, and keeps the bytes held back."""
    verifier, sink = verifying(LARGE)
    with pytest.raises(DigestMismatch):
        await verifier.write(WRONG)
    assert sink.sent == len(LARGE) - HELD_BACK


@pytest.mark.parametrize("sent", [LARGE, WRONG], ids=["right", "wrong"])
async def test_a_thread_hashes_what_a_leased_socket_takes(sent: bytes) -> None:
    """All but the end of a peer's body bypasses the event loop.

    The end of wrong content does not pass.
    """
    client, written = SocketSink.connect(), 0
    verdicts: list[bool] = []
    verifier = VerifyingSink(
        client, digest=Digest.of(LARGE), size=len(LARGE), on_verified=verdicts.append
    )

    class Counted(Sink):
        """Counts the bytes written."""

        @property
        def sent(self) -> int:
            return verifier.sent

        async def write(self, data: bytes) -> None:
            nonlocal written
            written += len(data)
            await verifier.write(data)

        lease = verifier.lease

    request = PeerRequest(target="/v2/app/blobs/x", size=len(LARGE))
    async with (
        FakePeer(sent).serve("a") as peer,
        HTTPUpstream(deadlines=Deadlines()) as upstream,
        upstream.open(peer, request) as response,
    ):
        with nullcontext() if sent == LARGE else pytest.raises(DigestMismatch):
            await response.send(Counted())
    await client.close()
    assert verdicts == [sent == LARGE]
    assert verifier.sent == len(LARGE)
    assert client.taken == (LARGE if sent == LARGE else LARGE[:-HELD_BACK])
    assert HELD_BACK <= written < HELD_BACK + 64 * 1024  # and what came with the head


def test_a_sample_is_one_in_thirty_two() -> None:
    """`sample` verifies some, `all` every one, `off` none."""
    random = Random(5)
    assert (
        abs(sum(Verify.SAMPLE.selects(random) for _ in range(16_000)) - 16_000 / SAMPLED_ONE_IN)
        < 150
    )
    assert Verify.ALL.selects(random)
    assert not Verify.OFF.selects(random)


def test_what_is_asked_for_again_is_suspicious() -> None:
    """With `sample` a relayed blob is verified if it is soon requested again.

    A runtime threw it away.
    """
    now = 0.0
    verification = VerificationPolicy(verify=Verify.SAMPLE, random=Never(), clock=lambda: now)
    digest = Digest.of(LARGE)
    assert not verification.should_verify(digest)
    verification.record_relayed(digest)
    assert verification.should_verify(digest)
    assert not verification.should_verify(Digest.of(SMALL))
    now = SUSPICIOUS_WITHIN
    assert not verification.should_verify(digest)
    for number in range(MAX_REMEMBERED):
        verification.record_relayed(Digest.of(str(number).encode()))
    verification.record_relayed(digest)
    assert verification.should_verify(digest)


async def test_the_second_pull_of_a_wrong_blob_finds_its_peer_out() -> None:
    """Even if the sample missed the blob at first, the third pull goes to another peer."""
    async with start_lab(verify=Verify.SAMPLE, random=Never()) as lab:
        await lab.serve(FakePeer(WRONG))
        assert (await lab.pull(blob(LARGE)))[1:] == (WRONG, True)
        _, body, complete = await lab.pull(blob(LARGE))
        assert not complete
        assert len(body) < len(LARGE)
        with pytest.raises(BlobUnknown):
            await lab.pull(blob(LARGE))


async def test_a_right_blob_is_whole() -> None:
    """A verified blob arrives as before, and is counted."""
    async with start_lab(verify=Verify.ALL) as lab:
        await lab.serve(FakePeer(LARGE))
        _, body, complete = await lab.pull(blob(LARGE))
        assert complete
        assert body == LARGE
        assert lab.count(VERIFIED, source="peer", outcome="ok") == 1


async def test_a_wrong_blob_ends_short_and_its_peer_is_left_out() -> None:
    """The end is not sent.

    The peer is logged, and asked for nothing more, not even for other content.
    """
    async with start_lab(verify=Verify.ALL) as lab:
        liar = FakePeer(WRONG)
        await lab.serve(liar)
        with capture_logs() as logs:
            _, body, complete = await lab.pull(blob(LARGE))
        assert not complete
        assert body == LARGE[:-HELD_BACK]
        [event] = [entry for entry in logs if entry["event"] == "peer sent wrong bytes"]
        assert (event["peer"], event["addr"]) == ("peer0", lab.peers[0].authority)
        assert event["quarantine_seconds"] == 600
        assert lab.count(VERIFIED, source="peer", outcome="wrong") == 1
        assert lab.attempts() == {"mismatch": 1}
        for other in (LARGE, SMALL):
            with pytest.raises(BlobUnknown):
                await lab.pull(blob(other))
        assert len(liar.requests) == 1


async def test_others_serve_while_one_is_in_quarantine(lab: Lab) -> None:
    """A peer that sent a wrong small blob is excluded from all pulls, and other peers are asked."""
    liar, good = FakePeer(b"x" * len(SMALL)), FakePeer(SMALL)
    await lab.serve(liar, good)
    await lab.pull(blob(SMALL))
    good.data = LARGE
    _, body, _ = await lab.pull(blob(LARGE))
    assert body == LARGE
    assert len(liar.requests) == 1


async def test_what_went_on_elsewhere_is_verified_as_a_whole() -> None:
    """A body of two peers is right if both parts were.

    Its end is held back across the change of peers.
    """
    async with start_lab(verify=Verify.ALL) as lab:
        await lab.serve(FakePeer(LARGE, cut_at=len(LARGE) - HELD_BACK // 2), FakePeer(LARGE))
        _, body, complete = await lab.pull(blob(LARGE))
        assert complete
        assert body == LARGE


async def test_a_part_cannot_be_verified() -> None:
    """A range is relayed unverified: no digest covers it."""
    async with start_lab(verify=Verify.ALL) as lab:
        await lab.serve(FakePeer(LARGE))
        _, body, complete = await lab.pull(blob(LARGE, ByteRange(5, None)))
        assert complete
        assert body == LARGE[5:]
        assert lab.count(VERIFIED, source="peer", outcome="ok") == 0
