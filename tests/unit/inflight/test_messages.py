"""The messages of in-flight sharing: only written messages can be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight import message_fields, messages
from spegel_py.inflight.message_fields import MessageError
from spegel_py.inflight.messages import (
    CoordinatorRequest,
    CoordinatorResponse,
    FetchUncoordinated,
    FetchUpstream,
    FollowParent,
    Heartbeat,
    HeartbeatAck,
    ParentFault,
    ParentRequest,
    RetryLater,
    Role,
    TreeNode,
    TreeQuery,
    TreeSnapshot,
    decode_request,
    decode_response,
    encode,
)
from spegel_py.oci.digest import Digest
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE

DIGEST = Digest.of(b"layer")
DIGESTS = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))
PEERS = st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZ", min_size=1, max_size=message_fields.MAX_ID)
OFFSETS = st.integers(0, messages.MAX_OFFSET)
SECONDS = st.floats(0, messages.MAX_SECONDS)
QUESTIONS: st.SearchStrategy[CoordinatorRequest] = st.one_of(
    st.builds(ParentRequest, DIGESTS, OFFSETS, st.booleans(), st.integers(0, messages.MAX_HELD)),
    st.builds(
        ParentRequest,
        DIGESTS,
        OFFSETS,
        st.booleans(),
        st.integers(0, messages.MAX_HELD),
        PEERS,
        st.sampled_from(ParentFault),
    ),
    st.builds(
        Heartbeat, DIGESTS, st.sampled_from([Role.LEADER, Role.COMPLETE, Role.LEFT]), OFFSETS
    ),
    st.builds(Heartbeat, DIGESTS, st.just(Role.FOLLOWER), OFFSETS, PEERS),
    st.builds(TreeQuery, DIGESTS),
)


@st.composite
def shapes(draw: st.DrawFn) -> TreeSnapshot:
    """Return forests of any form; each node's parent is an earlier one or none."""
    places = [
        TreeNode(
            draw(PEERS),
            draw(st.none() | st.integers(0, number - 1)) if number else None,
            draw(st.none() | st.sampled_from(Role)),
            draw(OFFSETS),
        )
        for number in range(draw(st.integers(0, messages.MAX_TREE_NODES)))
    ]
    return TreeSnapshot(tuple(places), draw(OFFSETS))


REPLIES: st.SearchStrategy[CoordinatorResponse] = st.one_of(
    st.builds(FetchUpstream, SECONDS),
    st.builds(FollowParent, PEERS, st.integers(0, messages.MAX_DEPTH), SECONDS),
    st.builds(RetryLater, SECONDS),
    st.just(FetchUncoordinated()),
    st.builds(HeartbeatAck, SECONDS),
    shapes(),
)


@given(QUESTIONS)
def test_a_question_is_read_back_as_it_was_written(question: CoordinatorRequest) -> None:
    """Encoding and decoding are inverse, and within the bound."""
    raw = encode(question)
    assert decode_request(raw) == question
    assert len(raw) <= MAX_REQUEST


@given(REPLIES)
def test_a_reply_is_read_back_as_it_was_written(reply: CoordinatorResponse) -> None:
    """Encoding and decoding are inverse, and within the bound."""
    raw = encode(reply)
    assert decode_response(raw) == reply
    assert len(raw) <= MAX_RESPONSE


@given(st.binary(max_size=300))
def test_garbage_is_a_message_error_and_nothing_else(raw: bytes) -> None:
    """Any bytes either are a message or raise MessageError."""
    for decode in (decode_request, decode_response):
        try:
            decode(raw)
        except MessageError:
            continue


VALUES: st.SearchStrategy[object] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1 << 63,
        0.5,
        float("nan"),
        "",
        "x",
        "../x",
        "lead",
        "dead",
        str(DIGEST),
        [],
        {},
        [["x"]],
        [{}],
    ]
)
NAMES = st.sampled_from(
    [
        "digest",
        "offset",
        "serves",
        "held",
        "bad",
        "why",
        "role",
        "parent",
        "depth",
        "renew",
        "seconds",
        "places",
        "more",
    ]
)


@given(
    st.sampled_from(["ask", "note", "look", "lead", "follow", "wait", "noted", "shape", "", None]),
    st.dictionaries(NAMES, VALUES, max_size=6),
)
def test_members_of_any_kind_are_checked(kind: str, fields: dict[str, object]) -> None:
    """A decoded message is valid whatever its members are; else there is a MessageError."""
    raw = json.dumps({"kind": kind, **fields}).encode()
    for decode in (decode_request, decode_response):
        try:
            message: CoordinatorRequest | CoordinatorResponse = decode(raw)
        except MessageError:
            continue
        assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "ask"},
        {"kind": "ask", "digest": "sha256:x", "offset": 0, "serves": True, "held": 0},
        {"kind": "ask", "digest": str(DIGEST), "offset": -1, "serves": True, "held": 0},
        {"kind": "ask", "digest": str(DIGEST), "offset": True, "serves": True, "held": 0},
        {"kind": "ask", "digest": str(DIGEST), "offset": 1 << 63, "serves": True, "held": 0},
        {"kind": "ask", "digest": str(DIGEST), "offset": 0, "serves": 1, "held": 0},
        {"kind": "ask", "digest": str(DIGEST), "offset": 0, "serves": True, "held": True},
        {"kind": "ask", "digest": str(DIGEST), "offset": 0, "serves": True},
        {"kind": "ask", "digest": str(DIGEST), "offset": 0, "serves": True, "held": 0, "bad": "p"},
        {
            "kind": "ask",
            "digest": str(DIGEST),
            "offset": 0,
            "serves": True,
            "held": 0,
            "bad": "../p",
            "why": "dead",
        },
        {
            "kind": "ask",
            "digest": str(DIGEST),
            "offset": 0,
            "serves": True,
            "held": 0,
            "bad": "p",
            "why": "ugly",
        },
        {"kind": "note", "digest": str(DIGEST), "offset": 0, "role": "follow"},
        {"kind": "note", "digest": str(DIGEST), "offset": 0, "role": "lead", "parent": "p"},
        {"kind": "note", "digest": str(DIGEST), "offset": 0, "role": ["lead"]},
    ],
)
def test_a_malformed_question_is_refused(fields: dict[str, object]) -> None:
    """Each member that is missing, of another type or out of bounds is a MessageError."""
    with pytest.raises(MessageError):
        decode_request(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b'{"kind": "wait", "seconds": NaN}',
        b'{"kind": "wait", "seconds": 1e9}',
        b'{"kind": "wait", "seconds": "1"}',
        b'{"kind": "follow", "parent": "p", "depth": 65, "renew": 1}',
        b'{"kind": "follow", "parent": "", "depth": 1, "renew": 1}',
        b'{"kind": "ask"}',
        b"[]",
        b"[" * 1000,
        b'{"kind": "alone", "x": "' + b"x" * MAX_RESPONSE + b'"}',
    ],
)
def test_a_malformed_reply_is_refused(raw: bytes) -> None:
    """A response that no coordinator may send is a MessageError."""
    with pytest.raises(MessageError):
        decode_response(raw)


def test_the_longest_shape_is_within_the_bound() -> None:
    """A snapshot with the most nodes, the longest ids and the largest numbers fits."""
    places = tuple(
        TreeNode(
            "p" * message_fields.MAX_ID,
            number - 1 if number else None,
            Role.FOLLOWER,
            messages.MAX_OFFSET,
        )
        for number in range(messages.MAX_TREE_NODES)
    )
    raw = encode(TreeSnapshot(places, messages.MAX_OFFSET))
    assert len(raw) <= MAX_RESPONSE
    assert decode_response(raw) == TreeSnapshot(places, messages.MAX_OFFSET)


@pytest.mark.parametrize(
    "places",
    [
        "x",
        ["p"],
        [{"node": "p", "offset": -1}],
        [{"node": "../p", "offset": 0}],
        [{"node": "p", "offset": 0, "parent": 0}],
        [{"node": "p", "offset": 0}, {"node": "q", "offset": 0, "parent": 1}],
        [{"node": "p", "offset": 0, "role": "king"}],
        [{"node": "p", "offset": 0}] * (messages.MAX_TREE_NODES + 1),
    ],
)
def test_a_malformed_shape_is_refused(places: object) -> None:
    """A node's parent comes before it, so a snapshot is a forest whatever a peer sends."""
    with pytest.raises(MessageError):
        decode_response(json.dumps({"kind": "shape", "places": places, "more": 0}).encode())


def test_a_later_version_may_say_more() -> None:
    """Unknown members are ignored."""
    raw = json.dumps({"kind": "wait", "seconds": 2, "later": {"x": 1}}).encode()
    assert decode_response(raw) == RetryLater(2.0)
