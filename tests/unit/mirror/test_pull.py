"""Pulls through good and bad peers: over real sockets, with an in-process network of routers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from spegel_py.errors import BlobUnknown, ManifestUnknown, RangeInvalid
from spegel_py.mirror.slow_peers import SlowPeerPolicy
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.base import ClientGone
from tests.unit.mirror.lab import (
    LARGE,
    MANIFEST,
    PATIENT,
    QUICK,
    SMALL,
    Lab,
    MemorySink,
    blob,
    manifest,
    manifest_peer,
    start_lab,
)
from tests.unit.mirror.peers import FakePeer


@pytest.mark.parametrize("data", [LARGE, SMALL, b""], ids=["large", "small", "empty"])
async def test_a_blob_comes_from_a_peer(lab: Lab, data: bytes) -> None:
    """A blob that a peer has arrives whole, with its size and the peer's name."""
    await lab.serve(FakePeer(data))
    head, body, complete = await lab.pull(blob(data))
    assert complete
    assert body == data
    assert (head.size, head.start, head.length, head.peer.id) == (len(data), 0, len(data), "peer0")
    assert lab.attempts() == {"ok": 1}


async def test_nobody_is_an_immediate_unknown(lab: Lab) -> None:
    """If no peer advertises the content, the answer is unknown after no attempt.

    That is long before the resolve deadline.
    """
    began = time.monotonic()
    with pytest.raises(BlobUnknown) as unknown:
        await lab.pull(blob(LARGE))
    assert time.monotonic() - began < PATIENT.resolve
    assert unknown.value.detail == {"attempts": 0}


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        pytest.param(FakePeer(silent=True), "abandoned", id="never answers"),
        pytest.param(FakePeer(raw=b""), "unreachable", id="hangs up"),
        pytest.param(FakePeer(raw=b"garbage\r\n\r\n"), "refused", id="not http"),
        pytest.param(FakePeer(status=404), "not_found", id="404"),
        pytest.param(FakePeer(status=429), "refused", id="429"),
        pytest.param(FakePeer(status=500), "refused", id="500"),
        pytest.param(FakePeer(LARGE, chunked=True), "refused", id="chunked"),
        pytest.param(
            FakePeer(LARGE, digest=Digest.of(SMALL)), "mismatch", id="says another digest"
        ),
    ],
)
async def test_a_peer_that_does_not_answer_well_is_passed_over(
    lab: Lab, bad: FakePeer, outcome: str
) -> None:
    """Whatever goes wrong before the body, the next peer is asked, and the client never notices."""
    await lab.serve(replace(bad), FakePeer(LARGE))
    head, body, complete = await lab.pull(blob(LARGE))
    assert complete
    assert body == LARGE
    assert head.peer.id == "peer1"
    assert lab.attempts() == {outcome: 1, "ok": 1}


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [("fin", "unreachable"), ("rst", "unreachable"), ("stall", "stalled"), ("trickle", "stalled")],
)
async def test_a_broken_body_goes_on_at_the_next_peer(
    quick_lab: Lab, ending: str, outcome: str
) -> None:
    """However a body breaks, the next peer is asked for exactly the rest.

    The bytes are the same.
    """
    first = FakePeer(LARGE, cut_at=len(LARGE) // 2, ending=ending)  # type: ignore[arg-type]
    second = FakePeer(LARGE)
    await quick_lab.serve(first, second)
    with capture_logs() as logs:
        head, body, complete = await quick_lab.pull(blob(LARGE))
    assert complete
    assert Digest.of(body) == Digest.of(LARGE)
    assert head.peer.id == "peer0"
    [failed] = [entry for entry in logs if entry["event"] == "peer failed"]
    [(_, fields)] = second.requests
    assert fields["range"] == [f"bytes={failed['offset']}-{len(LARGE) - 1}"]
    assert quick_lab.attempts() == {outcome: 1, "ok": 1}


@pytest.mark.parametrize(
    "liar",
    [FakePeer(LARGE, ignores_range=True), FakePeer(LARGE, extra_size=1), FakePeer(LARGE + b"x")],
    ids=["200 for a range", "wrong total", "longer content"],
)
async def test_a_body_goes_on_only_on_the_range_that_is_missing(lab: Lab, liar: FakePeer) -> None:
    """A peer that answers the rest with anything else is passed over; the third peer goes on."""
    await lab.serve(FakePeer(LARGE, cut_at=1_000_000), replace(liar), FakePeer(LARGE))
    _, body, complete = await lab.pull(blob(LARGE))
    assert complete
    assert body == LARGE
    assert lab.attempts() == {"unreachable": 1, "refused": 1, "ok": 1}


async def test_a_body_without_a_next_peer_ends_short(lab: Lab) -> None:
    """When no peer is left in mid-body, the bytes sent are right.

    The caller learns that some are missing.
    """
    await lab.serve(FakePeer(LARGE, cut_at=1_000_000))
    _, body, complete = await lab.pull(blob(LARGE))
    assert not complete
    assert 0 < len(body) <= 1_000_000
    assert LARGE.startswith(body)


async def test_a_resumed_pull_does_not_meet_the_peer_that_broke_off(lab: Lab) -> None:
    """The runtime resumes at once.

    The only peer broke this content off, so it is unknown, and upstream is next.
    """
    await lab.serve(FakePeer(LARGE, cut_at=1_000_000))
    _, body, _ = await lab.pull(blob(LARGE))
    with pytest.raises(BlobUnknown):
        await lab.pull(blob(LARGE, ByteRange(len(body), None)))


@pytest.mark.parametrize(
    ("asked", "start", "length"),
    [
        pytest.param(ByteRange(10, None), 10, len(LARGE) - 10, id="open"),
        pytest.param(ByteRange(10, 3_000_009), 10, 3_000_000, id="closed"),
        pytest.param(ByteRange(None, 3_000_000), len(LARGE) - 3_000_000, 3_000_000, id="suffix"),
    ],
)
async def test_a_range_is_relayed_and_goes_on_where_it_broke(
    lab: Lab, asked: ByteRange, start: int, length: int
) -> None:
    """A client's range passes through, and its rest is requested in the content's own offsets."""
    second = FakePeer(LARGE)
    await lab.serve(FakePeer(LARGE, cut_at=1_500_000), second)
    with capture_logs() as logs:
        head, body, complete = await lab.pull(blob(LARGE, asked))
    assert complete
    assert (head.start, head.length, head.size) == (start, length, len(LARGE))
    assert body == LARGE[start : start + length]
    [failed] = [entry for entry in logs if entry["event"] == "peer failed"]
    assert second.requests[0][1]["range"] == [f"bytes={failed['offset']}-{start + length - 1}"]
    assert failed["offset"] > start


async def test_a_range_of_a_small_blob_is_verified_too(lab: Lab) -> None:
    """A small blob is fetched whole and verified even if the client wants a part."""
    await lab.serve(FakePeer(b"x" * len(SMALL)), FakePeer(SMALL))
    head, body, complete = await lab.pull(blob(SMALL, ByteRange(5, 9)))
    assert complete
    assert body == SMALL[5:10]
    assert (head.start, head.length, head.size) == (5, 5, len(SMALL))
    assert lab.attempts() == {"mismatch": 1, "ok": 1}


async def test_a_range_beyond_the_end_is_invalid(lab: Lab) -> None:
    """A peer's 416 with the size is passed on to the client."""
    fake = FakePeer(raw=b"HTTP/1.1 416 X\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n")
    await lab.serve(fake)
    with pytest.raises(RangeInvalid) as invalid:
        await lab.pull(blob(LARGE, ByteRange(10, None)))
    assert invalid.value.detail == {"size": 10}


@pytest.mark.parametrize(
    ("good", "bad", "pull"),
    [
        pytest.param(FakePeer(SMALL), FakePeer(b"y" * len(SMALL)), blob(SMALL), id="blob"),
        pytest.param(FakePeer(SMALL), FakePeer(b""), blob(SMALL), id="no bytes"),
        pytest.param(
            manifest_peer(),
            manifest_peer(data=MANIFEST.replace(b"2", b"3")),
            manifest("v1"),
            id="tag",
        ),
        pytest.param(
            manifest_peer(),
            manifest_peer(data=MANIFEST.replace(b"2", b"3")),
            manifest(Digest.of(MANIFEST)),
            id="manifest by digest",
        ),
    ],
)
async def test_wrong_bytes_never_reach_the_client(
    lab: Lab, good: FakePeer, bad: FakePeer, pull: PullRequest
) -> None:
    """Manifests and small blobs are verified before the first byte.

    The wrong peer is not asked for them again.
    """
    liar = replace(bad, requests=[])
    await lab.serve(liar, replace(good))
    for _ in range(2):
        _, body, complete = await lab.pull(pull)
        assert complete
        assert body == good.data
    assert len(liar.requests) == 1
    assert lab.attempts() == {"mismatch": 1, "ok": 2}


async def test_a_manifest_keeps_its_type(lab: Lab) -> None:
    """The client gets the manifest's type, and the peer gets the client's Accept lines."""
    fake = manifest_peer()
    await lab.serve(fake)
    head, body, _ = await lab.pull(manifest("v1"))
    assert (head.media_type, head.digest) == (OCI_MANIFEST, Digest.of(MANIFEST))
    assert body == MANIFEST
    assert fake.requests[0][1]["accept"] == [OCI_MANIFEST]


async def test_a_range_of_a_manifest_is_cut_here(lab: Lab) -> None:
    """A manifest is always fetched whole, and cut after it was verified."""
    fake = manifest_peer()
    await lab.serve(fake)
    head, body, _ = await lab.pull(manifest("v1", asked=ByteRange(3, 5)))
    assert body == MANIFEST[3:6]
    assert (head.start, head.length, head.size) == (3, 3, len(MANIFEST))
    assert "range" not in fake.requests[0][1]


@pytest.mark.parametrize("reference", ["v1", Digest.of(MANIFEST)], ids=["tag", "digest"])
async def test_a_head_is_answered_from_the_verified_manifest(
    lab: Lab, reference: Digest | str
) -> None:
    """A HEAD fetches the manifest from the peer, and answers with its type, size and digest."""
    fake = manifest_peer()
    await lab.serve(fake)
    head, body, _ = await lab.pull(manifest(reference, head=True))
    assert (head.media_type, head.size, head.digest) == (
        OCI_MANIFEST,
        len(MANIFEST),
        Digest.of(MANIFEST),
    )
    assert body == b""
    assert fake.requests[0][0].startswith(f"GET /v2/app/manifests/{reference}?ns=r.io ")
    assert lab.mirror._memory.reserved == 0


@pytest.mark.parametrize("reference", ["v1", Digest.of(MANIFEST)], ids=["tag", "digest"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "1"},
        {"Content-Length": str(len(MANIFEST) + 1)},
        {"Docker-Content-Digest": f"sha256:{'ab' * 32}"},
        {"Content-Type": "text/evil"},
    ],
    ids=["too short", "too long", "a digest that nobody has", "another type"],
)
async def test_a_peer_that_lies_in_its_head_fails_no_pull(
    lab: Lab, reference: Digest | str, headers: dict[str, str]
) -> None:
    """After a wrong head the next peer is asked, or the answer follows the bytes."""
    said = {
        "Content-Length": str(len(MANIFEST)),
        "Content-Type": OCI_MANIFEST,
        "Docker-Content-Digest": str(Digest.of(MANIFEST)),
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    liar = FakePeer(raw=f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + MANIFEST)
    await lab.serve(liar, manifest_peer())
    told, _, _ = await lab.pull(manifest(reference, head=True))
    assert (told.media_type, told.size, told.digest) == (
        OCI_MANIFEST,
        len(MANIFEST),
        Digest.of(MANIFEST),
    )


@pytest.mark.parametrize(
    "bad",
    [manifest_peer(media_type=None), manifest_peer(digest=None), manifest_peer(extra_size=2**23)],
    ids=["no type", "no digest", "too large"],
)
async def test_a_tag_whose_head_is_incomplete_is_unknown(lab: Lab, bad: FakePeer) -> None:
    """A head that would break the pull is not relayed."""
    await lab.serve(replace(bad))
    with pytest.raises(ManifestUnknown) as unknown:
        await lab.pull(manifest("v1", head=True))
    assert unknown.value.detail == {"attempts": 1}


async def test_a_manifest_has_a_deadline_over_all_peers(quick_lab: Lab) -> None:
    """Silent peers cost a manifest at most its own deadline, then it is unknown."""
    await quick_lab.serve(*[FakePeer(silent=True)] * 1)
    for number in range(7):
        quick_lab.peers.append(replace(quick_lab.peers[0], id=f"again{number}"))
    began = time.monotonic()
    with pytest.raises(ManifestUnknown):
        await quick_lab.pull(manifest("v1"))
    assert time.monotonic() - began < QUICK.manifest + 0.3


async def test_a_client_that_leaves_with_the_last_byte_has_had_all_of_the_peer(lab: Lab) -> None:
    """A client hangs up as soon as it has everything.

    That is noticed before the sending is over.
    """

    class Hasty(MemorySink):
        async def write(self, data: bytes) -> None:
            await super().write(data)
            if self.sent == len(LARGE):
                raise ClientGone("it has all")

    await lab.serve(FakePeer(LARGE))
    with pytest.raises(ClientGone):
        await lab.pull(blob(LARGE), Hasty())
    assert lab.attempts() == {"ok": 1}


async def test_a_client_that_leaves_stops_the_peer_at_once(lab: Lab) -> None:
    """When the client is gone the peer is hung up on, and it is not the peer's failure."""
    fake = FakePeer(LARGE, cut_at=2_000_000, ending="stall")
    await lab.serve(fake)
    with pytest.raises(ClientGone):
        await lab.pull(blob(LARGE), MemorySink(limit=1))
    await asyncio.wait_for(fake.hung_up.wait(), 1)
    assert lab.attempts() == {"abandoned": 1}
    assert lab.scores.of(lab.peers[0]).failures == 0


async def test_a_cancelled_pull_stops_the_peer_at_once(lab: Lab) -> None:
    """When the request is cancelled the peer is hung up on, and it is not the peer's failure."""
    started = asyncio.Event()
    fake = FakePeer(LARGE, cut_at=2_000_000, ending="stall", on_body=started.set)
    await lab.serve(fake)
    task = asyncio.ensure_future(lab.pull(blob(LARGE)))
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    await asyncio.wait_for(fake.hung_up.wait(), 1)
    assert lab.attempts() == {"abandoned": 1}
    assert lab.scores.of(lab.peers[0]).in_flight == 1  # as before


async def test_the_log_tells_where_the_bytes_came_from(lab: Lab) -> None:
    """The events of a pull that changed peers have the documented names and fields."""
    await lab.serve(FakePeer(LARGE, cut_at=1_000_000), FakePeer(LARGE))
    with capture_logs() as logs:
        await lab.pull(blob(LARGE))
    by_event = {entry["event"]: entry for entry in logs}
    assert list(by_event) == ["relay started", "peer failed", "relay continued", "relay finished"]
    digest = str(Digest.of(LARGE))
    started, finished = by_event["relay started"], by_event["relay finished"]
    assert (started["digest"], started["peer"], started["offset"]) == (digest, "peer0", 0)
    assert started["addr"] == lab.peers[0].authority
    assert (finished["digest"], finished["total"], finished["outcome"]) == (
        digest,
        len(LARGE),
        "complete",
    )
    first, second = finished["attempts"]
    assert set(first) == {"peer", "addr", "offset", "bytes", "ms", "outcome", "hedge", "in_flight"}
    assert (first["peer"], first["outcome"], second["peer"], second["outcome"]) == (
        "peer0",
        "unreachable",
        "peer1",
        "ok",
    )
    assert first["bytes"] == second["offset"] == by_event["peer failed"]["offset"]
    assert first["bytes"] + second["bytes"] == len(LARGE)


async def test_a_miss_is_logged_with_what_was_tried(lab: Lab) -> None:
    """The log shows why a pull went upstream."""
    await lab.serve(FakePeer(status=500))
    with capture_logs() as logs, pytest.raises(ManifestUnknown):
        await lab.pull(manifest("v1"))
    [missed] = [entry for entry in logs if entry["event"] == "relay missed"]
    assert (missed["name"], missed["outcome"]) == ("r.io/app:v1", "missed")
    assert [attempt["outcome"] for attempt in missed["attempts"]] == ["refused"]


@pytest.mark.parametrize(
    ("rate", "outcome"),
    [(16 * 1024, "stalled"), (512 * 1024, "slow")],
    ids=["a trickle", "just slow"],
)
async def test_a_small_blob_that_comes_slowly_goes_on_at_the_next_peer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, rate: int, outcome: str
) -> None:
    """The client sees no byte until the blob was verified.

    So a slow peer is left early, and its bytes are kept.
    """
    monkeypatch.setattr(
        "spegel_py.mirror.first_response.BUFFERED_POLICY",
        SlowPeerPolicy(min_rate=1024 * 1024, window=0.2),
    )
    data = SMALL * 100
    slow, quick = FakePeer(data, rate=rate), FakePeer(data)
    await lab.serve(slow, quick)
    _, body, complete = await lab.pull(blob(data))
    assert (complete, body == data) == (True, True)
    assert lab.attempts() == {outcome: 1, "ok": 1}
    [(_, fields)] = quick.requests
    [[asked]] = [fields["range"]]
    assert 0 < int(asked.removeprefix("bytes=").split("-")[0]) < len(data)


async def test_a_slow_peer_is_not_left_where_it_is_the_only_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow body is better than none."""
    monkeypatch.setattr(
        "spegel_py.mirror.first_response.BUFFERED_POLICY",
        SlowPeerPolicy(min_rate=1024 * 1024, window=0.1),
    )
    data = SMALL * 20
    await lab.serve(FakePeer(data, rate=200_000))
    _, body, complete = await lab.pull(blob(data))
    assert (complete, body == data) == (True, True)
    assert lab.attempts() == {"ok": 1}


async def test_wrong_parts_of_a_small_blob_are_found_out(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob from two peers is verified as a whole. Then a third peer gives all of it."""
    monkeypatch.setattr(
        "spegel_py.mirror.first_response.BUFFERED_POLICY",
        SlowPeerPolicy(min_rate=1024 * 1024, window=0.2),
    )
    data = SMALL * 100
    await lab.serve(FakePeer(data, rate=200_000), FakePeer(bytes(len(data))), FakePeer(data))
    _, body, complete = await lab.pull(blob(data))
    assert (complete, body == data) == (True, True)
    assert lab.count("spegel_peer_attempts_total", outcome="mismatch") == 1


@pytest.mark.parametrize("difference", [-1000, 1000], ids=["too short", "too long"])
async def test_a_peer_whose_length_is_not_the_manifest_s_is_refused(
    lab: Lab, difference: int
) -> None:
    """A wrong length would end the runtime's pull.

    A manifest relayed before gives the right one.
    """
    document = describing(LARGE)
    wrong = LARGE[:difference] if difference < 0 else LARGE + bytes(difference)
    await lab.serve(FakePeer(document, media_type=OCI_MANIFEST))
    await lab.pull(manifest(Digest.of(document)))
    lab.peers.clear()
    await lab.serve(FakePeer(wrong), FakePeer(LARGE))
    head, body, complete = await lab.pull(blob(LARGE))
    assert (complete, body == LARGE, head.size) == (True, True, len(LARGE))
    assert lab.count("spegel_peer_attempts_total", outcome="refused") == 1


@pytest.mark.parametrize("said", [len(LARGE) - 1, 10**15], ids=["a byte less", "without an end"])
async def test_what_the_runtime_expects_counts(said: int) -> None:
    """A peer that promises another length is refused, whatever a relayed manifest says."""

    async def expected(digest: Digest) -> int | None:
        return len(LARGE) if digest == Digest.of(LARGE) else None

    async with start_lab(expected=expected) as lab:
        lab.mirror._sizes.record_manifest(
            describing(LARGE).replace(f'"size": {len(LARGE)}'.encode(), f'"size": {said}'.encode())
        )
        await lab.serve(FakePeer(LARGE, extra_size=said - len(LARGE)), FakePeer(LARGE))
        _, body, complete = await lab.pull(blob(LARGE))
        assert (complete, body == LARGE) == (True, True)
        assert lab.count("spegel_peer_attempts_total", outcome="refused") == 1


def describing(data: bytes) -> bytes:
    """Return a manifest with one layer."""
    layer = {"mediaType": OCI_LAYER, "digest": str(Digest.of(data)), "size": len(data)}
    config = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(SMALL)), "size": len(SMALL)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    return json.dumps(document).encode()
