"""A pull is one thing: which requests belong to it, where its bytes came from, what was slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from spegel_py.admin.image_pulls import GAP, ImageContent, ImagePull, group
from spegel_py.admin.pull_advice import advice
from spegel_py.oci.digest import Digest
from spegel_py.oci.manifest import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Child
from spegel_py.telemetry.pull_record import RecordQuery

TAG = "r.io/app:1"
INDEX, MANIFEST, OTHER, CONFIG, LAYER, SECOND = (
    Digest.of(name.encode()) for name in ("index", "manifest", "other", "config", "layer", "second")
)
SIZES = {INDEX: 900, MANIFEST: 500, CONFIG: 100, LAYER: 20_000_000, SECOND: 6_000_000}
CONTENT = ImageContent(
    children={
        str(INDEX): (Child(MANIFEST, 500, OCI_MANIFEST), Child(OTHER, 500, OCI_MANIFEST)),
        str(MANIFEST): (
            Child(CONFIG, 100, OCI_CONFIG),
            Child(LAYER, SIZES[LAYER], OCI_LAYER_GZIP),
            Child(SECOND, SIZES[SECOND], OCI_LAYER_GZIP),
        ),
    },
    held={str(each) for each in SIZES},
)
PEER = "10.0.0.1:5000"


def record(
    what: Digest | str,
    at: float,
    *,
    method: str = "GET",
    peers: dict[str, int] | None = None,
    reason: str | None = None,
    **given: Any,
) -> dict[str, Any]:
    """Return the record of a request that one peer answers, if nothing else is given."""
    digest = what if isinstance(what, Digest) else None
    is_manifest = what in (INDEX, MANIFEST, OTHER) or digest is None
    length = SIZES.get(digest, 0) if digest else 0
    if peers is None:
        peers = {PEER: length} if method == "GET" and reason is None else {}
    return {
        "at": at,
        "verdict": "miss" if reason else "hit",
        "source": "peer" if peers or not reason else None,
        "reason": reason,
        "text": "",
        "method": method,
        "kind": "manifest" if is_manifest else "blob",
        "key": str(what),
        "reference": f"r.io/app@{digest}" if digest else str(what),
        "range": None,
        "digest": str(digest or INDEX) if digest or not reason else None,
        "attempts": [
            {"addr": name, "bytes": count, "outcome": "ok", "ms": 5.0, "in_flight": False}
            for name, count in peers.items()
        ],
        "bytes": {"local": 0, "peer": sum(peers.values())},
        "length": length,
        "ms": 100.0,
        "client": "runtime",
        "node": None,
    } | given


def whole(at: float = 100.0, **given: Any) -> list[dict[str, Any]]:
    """Return the records of a containerd that pulls the image, the tag first."""
    return [
        record(TAG, at, method="HEAD", **given),
        *(record(one, at + 0.1 * n, **given) for n, one in enumerate(SIZES, 1)),
    ]


def only(records: Sequence[dict[str, Any]], content: ImageContent = CONTENT) -> ImagePull:
    [pull] = group(records, content)
    return pull


def test_a_pull_of_another_nodes_runtime_is_kept_apart() -> None:
    """Though it is of the same image at the same time: it came through the node port."""
    theirs = [record(TAG, 100.0, node="node1", reason="not_found"), *whole(100.1)]
    first, second = group(theirs, CONTENT)
    assert (first.node, first.answered) == ("node1", 0)
    assert (second.node, second.answered) == (None, 5)
    assert first.as_json()["node"] == "node1"


def test_a_pull_is_the_whole_image() -> None:
    """The tag's request, index, manifest, config and layers are one pull of one peer."""
    shown = only(whole()).as_json()
    assert (shown["image"], shown["digest"], shown["client"]) == (TAG, str(INDEX), "runtime")
    assert (shown["asked"], shown["answered"], shown["total"]) == (5, 5, 5)
    assert shown["bytes"] == sum(SIZES.values())
    assert shown["seconds"] == pytest.approx(0.6)
    assert shown["sources"] == [
        {"source": "peer", "address": PEER, "bytes": sum(SIZES.values()), "in_flight": False}
    ]
    parts = shown["parts"]
    assert isinstance(parts, list)
    kinds = ["index", "manifest", "config", "layer", "layer"]
    assert [part["kind"] for part in parts] == kinds
    # a runtime may ask for the layers before it asks for the config
    records = whole()
    records[3]["at"] += 10
    parts = only(records).as_json()["parts"]
    assert isinstance(parts, list)
    assert [part["kind"] for part in parts] == kinds


def test_each_source_has_its_bytes() -> None:
    """Several peers, one of which was still downloading, this node, and the registry."""
    first, second = "10.0.0.1:5000", "10.0.0.2:5000"
    in_flight = record(LAYER, 101, peers={first: 15_000_000, second: 5_000_000})
    in_flight["attempts"][1]["in_flight"] = True
    local = record(CONFIG, 101, peers={}, source="local", bytes={"local": 100, "peer": 0})
    missed = record(SECOND, 101, reason="not_found")
    shown = only([*whole()[:3], in_flight, local, missed]).as_json()
    assert shown["sources"] == [
        {"source": "peer", "address": first, "bytes": 15_001_400, "in_flight": False},
        {"source": "peer", "address": second, "bytes": 5_000_000, "in_flight": True},
        {"source": "local", "address": None, "bytes": 100, "in_flight": False},
        {"source": "registry", "address": None, "bytes": SIZES[SECOND], "in_flight": False},
    ]
    assert (shown["asked"], shown["answered"]) == (5, 4)


def test_what_the_registry_sent_of_a_new_image_is_known() -> None:
    """The manifest that is here now names the sizes of all parts but its own."""
    shown = only(whole(reason="not_found")).as_json()
    below = sum(SIZES.values()) - SIZES[INDEX]
    assert (shown["answered"], shown["sources"]) == (
        0,
        [{"source": "registry", "address": None, "bytes": below, "in_flight": False}],
    )


def test_a_second_pull_of_the_image_is_a_pull_of_its_own() -> None:
    """By its tag or by its digest."""
    assert len(group([*whole(100), *whole(130)], CONTENT)) == 2
    by_digest = [record(INDEX, 100, method="HEAD"), *whole(100)[1:]]
    again = [record(INDEX, 130, method="HEAD"), *whole(130)[1:]]
    first, second = group([*by_digest, *again], CONTENT)
    assert (first.at, second.at) == (100, 130)
    assert first.image == f"r.io/app@{INDEX}"
    # a client without HEAD
    assert len(group([*whole(100)[1:], *whole(130)[1:]], CONTENT)) == 2


def test_two_images_of_a_repository_are_told_apart_by_their_content() -> None:
    """Both are pulled at the same time."""
    other = Digest.of(b"another image")
    content = ImageContent(
        children={**CONTENT.children, str(other): (Child(OTHER, 7, OCI_LAYER_GZIP),)},
        held=CONTENT.held,
    )
    mixed = [
        *whole(100),
        record("r.io/app:2", 100.05, method="HEAD", digest=str(other)),
        record(other, 100.15, kind="manifest"),
        record(OTHER, 100.35, kind="blob"),
    ]
    one, two = group(mixed, content)
    assert (one.image, len(one.parts)) == (TAG, 5)
    assert (two.image, len(two.parts)) == ("r.io/app:2", 2)


def test_without_the_manifest_the_repository_and_the_time_decide() -> None:
    """The image was deleted: its parts are not counted, but its requests stay together."""
    pull = only(whole(), ImageContent())
    assert (len(pull.parts), pull.total) == (5, None)
    assert len(group([*whole()[:4], record(LAYER, 200 + GAP)], ImageContent())) == 2


def test_a_tag_that_nobody_has_begins_the_pull_of_its_digest() -> None:
    """The registry resolves the tag; the mirror sees the digest only with the next request."""
    missed = record(TAG, 100, method="HEAD", reason="not_found")
    pull = only([missed, *whole()[1:]])
    assert (pull.image, pull.root, pull.answered) == (TAG, str(INDEX), 5)


def test_requests_for_the_tag_alone_are_a_pull_without_parts() -> None:
    """The kubelet looks whether a tag has moved: HEAD, and nothing else if it has not."""
    shown = only([record(TAG, 100, method="HEAD"), record(TAG, 101, method="HEAD")]).as_json()
    assert (shown["asked"], shown["requests"]) == (0, 2)


def test_a_refused_image_says_why() -> None:
    """Until a later request is answered, as with the right password."""
    challenged = record(TAG, 0.0, method="HEAD", reason="challenged")
    refused = {**record(TAG, 0.1, method="HEAD", reason="private"), "text": "the registry refuses"}
    [pull] = group([challenged, refused], CONTENT)
    assert pull.as_json()["refused"] == "the registry refuses"
    [pull] = group([challenged, refused, record(TAG, 1.0, method="HEAD")], CONTENT)
    assert pull.as_json()["refused"] is None


def test_people_and_runtimes_do_not_share_a_pull() -> None:
    """Though they ask for the same image at the same time."""
    pulls = group([*whole(100), *whole(100, client="measure")], CONTENT)
    assert sorted(pull.client for pull in pulls) == ["measure", "runtime"]


def test_parts_that_were_here_already_are_counted() -> None:
    """The image has five parts, and the runtime asked for four."""
    pull = only([one for one in whole() if one["digest"] != str(LAYER)])
    assert (len(pull.parts), pull.total) == (4, 5)


def test_a_part_in_several_ranges_is_whole() -> None:
    """containerd 2.1 and later fetch a layer in ranges; a resumed part counts its bytes too."""
    half = SIZES[LAYER] // 2
    ranges = [
        record(LAYER, 101 + n, peers={PEER: half}, length=half, range=f"bytes={n * half}-")
        for n in range(2)
    ]
    pull = only([*whole()[:4], *ranges])
    assert pull.parts[str(LAYER)].is_answered
    cut = record(LAYER, 101, peers={PEER: half}, reason="cut")
    pull = only([*whole()[:4], cut])
    assert pull.parts[str(LAYER)].from_registry == half


@pytest.mark.parametrize("text", [TAG, f"r.io/app@{INDEX}", str(LAYER), str(LAYER)[:20], "r.io/"])
def test_a_pull_is_found_by_its_image_and_by_its_parts(text: str) -> None:
    """By the tag, the digest, a part's digest, or a part of a name."""
    assert only(whole()).matches(RecordQuery.parse(text))
    assert not only(whole()).matches(RecordQuery.parse("r.io/app:2"))


def test_a_fast_pull_has_no_advice() -> None:
    """All came from a peer, at 43 MB/s."""
    assert advice(only(whole())) == []


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            [*whole()[:4], record(LAYER, 101, reason="not_found")],
            (
                "no other node had 1 part: a node that pulls the image first, or at the same time, "
                "shares it"
            ),
        ),
        (
            [*whole()[:4], record(LAYER, 101, reason="lookup_timeout")],
            "no peer was found in time for 1 part: a larger --mirror-resolve-timeout waits longer",
        ),
        (
            [record(TAG, 100, method="HEAD", reason="filtered")],
            "the tag is not mirrored: --mirrored-registries or --registry-filters exclude it",
        ),
        (
            [*whole()[:4], record(LAYER, 101, ms=5000.0)],
            "10.0.0.1:5000 alone sent 3.3 MB/s: a second node with the image shares the work",
        ),
    ],
    ids=["nobody", "too late", "filtered", "slow"],
)
def test_what_would_have_made_it_faster_is_said(
    records: list[dict[str, Any]], expected: str
) -> None:
    """Each cause with the way out."""
    assert advice(only(records)) == [expected]


def test_time_that_went_by_with_a_peer_is_said() -> None:
    """A peer that stalled cost two seconds."""
    records = whole()
    records[-1]["attempts"].insert(
        0, {"addr": "10.0.0.3:5000", "bytes": 0, "outcome": "stalled", "ms": 2000.0}
    )
    assert advice(only(records)) == ["2.0 s went by with 10.0.0.3:5000, which stalled"]
