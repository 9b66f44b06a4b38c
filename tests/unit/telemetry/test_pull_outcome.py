"""Why a request was a hit or a miss, from what is known of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from spegel_py.errors import BlobUnknown, CredentialsNeeded, Denied
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.oci.range import unsatisfiable
from spegel_py.outcomes import AttemptOutcome, AttemptRecord, ContentSource, LocalState, Lookup
from spegel_py.telemetry.pull_outcome import NAMED, record_of
from spegel_py.telemetry.pull_record import PullContext, RecordQuery

DIGEST = Digest.of(b"x")
UNKNOWN = BlobUnknown("no peer could give it", detail={"attempts": 0})
FILTERED = BlobUnknown("r.io/app is not mirrored", detail={"filtered": True})
NOBODY = Lookup()


def pull(method: str = "GET", reference: str = f"blobs/{DIGEST}") -> PullRequest:
    return PullRequest.parse(method=method, target=f"/v2/app/{reference}?ns=r.io")


def attempt(outcome: str, *, host: str = "10.0.0.2", count: int = 0) -> AttemptRecord:
    return AttemptRecord(
        peer=host,
        address=f"{host}:5000",
        bytes=count,
        milliseconds=1.5,
        outcome=AttemptOutcome(outcome),
    )


@pytest.mark.parametrize(
    ("known", "reason", "text"),
    [
        pytest.param(
            {"source": ContentSource.LOCAL, "length": 9, "sent": 9},
            None,
            "from this node's own content",
            id="hit from here",
        ),
        pytest.param(
            {
                "source": ContentSource.PEER,
                "length": 9,
                "sent": 9,
                "left": True,
                "attempts": [attempt("ok", count=9)],
            },
            None,
            "from 10.0.0.2:5000",
            id="client left with the last byte",
        ),
        pytest.param(
            {
                "source": ContentSource.PEER,
                "local": LocalState.AWAY,
                "length": 9,
                "sent": 9,
                "attempts": [attempt("ok", count=9)],
            },
            None,
            "from 10.0.0.2:5000; this node's own store is away",
            id="hit from a peer while the store is away",
        ),
        pytest.param(
            {
                "source": ContentSource.PEER,
                "length": 9,
                "sent": 9,
                "attempts": [
                    replace(attempt("unreachable", count=4), in_flight=True),
                    attempt("ok", count=5),
                ],
            },
            None,
            "from 10.0.0.2:5000 while it was pulling it, 10.0.0.2:5000",
            id="hit from a peer in flight",
        ),
        pytest.param(
            {
                "source": ContentSource.PEER,
                "length": 9,
                "sent": 9,
                "attempts": [
                    attempt("unreachable", count=4),
                    attempt("ok", host="10.0.0.3", count=5),
                ],
            },
            None,
            "from 10.0.0.2:5000, 10.0.0.3:5000",
            id="hit from two peers",
        ),
        pytest.param(
            {
                "source": ContentSource.PEER,
                "length": 9,
                "sent": 4,
                "attempts": [attempt("stalled", count=4)],
            },
            "cut",
            "cut short after 4 of 9 bytes, no peer is left: 10.0.0.2:5000 stalled",
            id="cut by peers",
        ),
        pytest.param(
            {"source": ContentSource.LOCAL, "length": 9, "sent": 4},
            "cut",
            "cut short after 4 of 9 bytes, this node's store broke off",
            id="cut by the store",
        ),
        pytest.param(
            {"source": ContentSource.LOCAL, "length": 9, "sent": 4, "left": True},
            "client_gone",
            "the client left after 4 of 9 bytes",
            id="client left in the middle",
        ),
        pytest.param(
            {"left": True},
            "client_gone",
            "the client left before there was an answer",
            id="client left early",
        ),
        pytest.param(
            {"refusal": unsatisfiable(9)},
            "invalid",
            "the range lies outside the 9 bytes of the content",
            id="invalid",
        ),
        pytest.param(
            {"refusal": FILTERED},
            "filtered",
            "r.io/app is not mirrored, by this node's settings",
            id="filtered",
        ),
        pytest.param(
            {"refusal": CredentialsNeeded("it is", challenge="", detail={"challenged": True})},
            "challenged",
            "it is",
            id="challenged",
        ),
        pytest.param(
            {"refusal": Denied("r.io refuses it", detail={"private": True})},
            "private",
            "r.io refuses it",
            id="private",
        ),
        pytest.param(
            {"lookup": NOBODY, "refusal": UNKNOWN, "local": LocalState.ABSENT},
            "not_found",
            "nobody has it: neither this node nor any peer it knows of",
            id="nobody has it",
        ),
        pytest.param(
            {"refusal": UNKNOWN}, "not_found", "no peer could give it", id="no peer is asked"
        ),
        pytest.param(
            {"lookup": Lookup(ended=False), "refusal": UNKNOWN},
            "lookup_timeout",
            "no peer was found in time (--mirror-resolve-timeout)",
            id="lookup timed out",
        ),
        pytest.param(
            {"lookup": Lookup(error="the DHT is away"), "refusal": UNKNOWN},
            "lookup_failed",
            "the lookup failed: the DHT is away",
            id="lookup failed",
        ),
        pytest.param(
            {"lookup": Lookup(found=2, first=0.1), "refusal": UNKNOWN},
            "shunned",
            "2 peers have it, but sent wrong bytes or broke off just now",
            id="nobody is asked",
        ),
        pytest.param(
            {
                "lookup": Lookup(found=2, first=0.1),
                "refusal": UNKNOWN,
                "attempts": [attempt("not_found"), attempt("abandoned", host="10.0.0.3")],
            },
            "failed",
            "none of the peers gave it: 10.0.0.2:5000 does not have it any more, or "
            "cannot read it now, 10.0.0.3:5000 "
            "did not answer in time",
            id="all failed",
        ),
        pytest.param(
            {"lookup": NOBODY, "refusal": UNKNOWN, "local": LocalState.TOO_OLD, "age": 90000.0},
            "too_old",
            "no peer has a younger one; the tag here was last seen at its registry 1.0 d ago, "
            "which is too long for --tag-ttl",
            id="too old",
        ),
        pytest.param(
            {"lookup": NOBODY, "refusal": UNKNOWN, "local": LocalState.AWAY},
            "store_away",
            "no peer has it; this node's own store is away",
            id="store away",
        ),
        pytest.param(
            {"fault": "KeyError: 'x'"}, "error", "a fault of this node: KeyError: 'x'", id="fault"
        ),
    ],
)
def test_the_reason_is_right(known: dict[str, Any], reason: str | None, text: str) -> None:
    """Each way in which a request can end has its reason, and says it in words."""
    record = record_of(PullContext(pull=pull(), at=0.0, **known), seconds=0.25)
    assert (record.reason, record.text) == (reason, text)
    assert record.is_hit == (reason is None)


def test_a_head_is_a_hit_without_a_body() -> None:
    """What a HEAD says is all it promises."""
    record = record_of(
        PullContext(pull=pull("HEAD"), at=0.0, source=ContentSource.LOCAL), seconds=0.1
    )
    assert (record.method, record.is_hit) == ("HEAD", True)


def test_many_peers_are_not_all_named_in_the_text() -> None:
    """The text stays short; the record has every attempt."""
    attempts = [attempt("unreachable", host=f"10.0.0.{number}") for number in range(9)]
    record = record_of(
        PullContext(pull=pull(), at=0.0, attempts=attempts, refusal=UNKNOWN), seconds=0.1
    )
    assert record.text.count(":5000") == NAMED
    assert record.text.endswith("and 6 more")
    assert len(record.attempts) == 9


def test_the_record_as_json_has_what_was_asked_and_what_came_of_it() -> None:
    """Milliseconds, bytes by source, the peers found and the resolved digest of a tag are all
    there.
    """
    context = PullContext(
        pull=pull(reference="manifests/v1"),
        at=1.0,
        local=LocalState.ABSENT,
        lookup=Lookup(found=3, first=0.0021),
        attempts=[attempt("ok", count=7)],
        source=ContentSource.PEER,
        digest=DIGEST,
        length=7,
        sent=7,
        status=200,
    )
    assert record_of(context, seconds=0.25).as_json() == {
        "at": 1.0,
        "verdict": "hit",
        "source": "peer",
        "reason": None,
        "text": "from 10.0.0.2:5000",
        "method": "GET",
        "kind": "manifest",
        "key": "r.io/app:v1",
        "reference": "r.io/app:v1",
        "registry": "r.io",
        "range": None,
        "digest": str(DIGEST),
        "status": 200,
        "local": "absent",
        "peers_found": 3,
        "lookup_ms": 2.1,
        "client": "runtime",
        "node": None,
        "attempts": [attempt("ok", count=7).as_json()],
        "bytes": {"local": 0, "peer": 7},
        "length": 7,
        "ms": 250.0,
    }


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        (str(DIGEST), True),
        ("r.io/app:v1", True),
        (f"r.io/app:v1@{DIGEST}", True),
        ("r.io/app", True),
        (str(DIGEST)[:20], True),
        ("r.io/app:v", False),
        ("r.io/ap:v1", False),
        (str(Digest.of(b"y")), False),
        ("other", False),
    ],
)
def test_records_are_found_by_digest_by_reference_and_by_a_part_of_either(
    text: str, matches: bool
) -> None:
    """A whole reference means that tag alone, not those that begin with it."""
    query = RecordQuery.parse(text)
    assert query.matches(key="r.io/app:v1", digest=str(DIGEST), reference="r.io/app:v1") == matches
