"""The messages about replicas: only written messages can be read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.message_fields import MessageError
from spegel_py.oci.digest import Digest
from spegel_py.replicas import keep_messages
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    ImageUsed,
    KeepAnswer,
    KeepMessage,
    KeepRefused,
    KeepRequest,
    RefusalReason,
    SickNoted,
    SickNotice,
    UsedRequest,
    decode_answer,
    decode_keep,
    encode,
)
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE
from spegel_py.store.base import ReplicaReason

DIGESTS = st.builds(Digest.of, st.binary(max_size=4), st.sampled_from(["sha256", "sha512"]))
TAGS = st.text("abcdefgh0123456789.-", min_size=1, max_size=40).map(lambda text: f"v{text}")
TIMES = st.floats(0, keep_messages.MAX_TIME)
SIZES = st.integers(0, keep_messages.MAX_SIZE)
REPOSITORY = "registry.example:5000/team/app"
REQUESTS: st.SearchStrategy[KeepMessage] = st.one_of(
    st.builds(
        KeepRequest,
        manifest=DIGESTS,
        root=DIGESTS,
        repository=st.just(REPOSITORY),
        tags=st.dictionaries(TAGS, TIMES, max_size=2),
        size=SIZES,
        reason=st.sampled_from(ReplicaReason),
        used=TIMES,
    ),
    st.builds(UsedRequest, DIGESTS),
    st.builds(SickNotice, st.sampled_from(["checks take longer", "x" * 160])),
)
ANSWERS: st.SearchStrategy[KeepAnswer] = st.one_of(
    st.just(ImageKept()),
    st.builds(ImageTaking, SIZES, SIZES),
    st.builds(
        KeepRefused,
        st.sampled_from(RefusalReason),
        st.floats(0, keep_messages.MAX_RETRY),
        st.sampled_from(["", "no-room"]),
    ),
    st.builds(ImageUsed, TIMES),
    st.just(SickNoted()),
)
REQUEST = KeepRequest(
    manifest=Digest.of(b"manifest"),
    root=Digest.of(b"index"),
    repository=REPOSITORY,
    tags={"1": 2.0},
    size=3,
    reason=ReplicaReason.FLOOR,
    used=4.0,
)


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(message: KeepMessage) -> None:
    """It is also as short as RequestResponse carries."""
    raw = encode(message)
    assert len(raw) <= MAX_REQUEST
    assert decode_keep(raw) == message


@given(ANSWERS)
def test_an_answer_is_read_as_it_was_written(message: KeepAnswer) -> None:
    """It is also as short as RequestResponse carries."""
    raw = encode(message)
    assert len(raw) <= MAX_RESPONSE
    assert decode_answer(raw) == message


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(raw: bytes) -> None:
    """Any bytes either are a message or raise MessageError."""
    for decode in (decode_keep, decode_answer):
        try:
            decode(raw)
        except MessageError:
            continue


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("manifest", "sha256:short"),
        ("repository", "no registry"),
        ("repository", "registry.example/team/app@sha256:" + "0" * 64),
        ("repository", "registry.example/team/app:1"),
        ("repository", ""),
        ("tags", {"name": "1", "pulled": 1.0}),
        ("tags", [{"name": "../..", "pulled": 1.0}]),
        ("tags", [{"name": "1", "pulled": -1.0}]),
        ("tags", [{"name": "1", "pulled": 1.0}] * 5),
        ("size", -1),
        ("size", True),
        ("size", 1 << 63),
        ("reason", "because"),
        ("used", float("nan")),
        ("used", 1e300),
    ],
)
def test_a_malformed_member_is_refused(member: str, value: object) -> None:
    """The error names the member."""
    fields = json.loads(encode(REQUEST)) | {member: value}
    with pytest.raises(MessageError):
        decode_keep(json.dumps(fields).encode())


def test_tags_that_do_not_fit_are_left_out() -> None:
    """The latest ones are kept."""
    tags = {f"{number}{'x' * 120}": float(number) for number in range(9)}
    repository = f"registry.example/{'a' * 120}/{'b' * 120}"
    one = KeepRequest(
        manifest=Digest.of(b"1", "sha512"),
        root=Digest.of(b"2", "sha512"),
        repository=repository,
        tags=tags,
        size=3,
        reason=ReplicaReason.FLOOR,
        used=4.0,
    )
    raw = encode(one)
    read = decode_keep(raw)
    assert len(raw) <= MAX_REQUEST
    assert isinstance(read, KeepRequest)
    assert read.repository == repository
    assert set(read.tags.values()) == {7.0, 8.0}


def test_unknown_members_are_ignored() -> None:
    """A later version may add some."""
    fields = json.loads(encode(REQUEST)) | {"depth": "unpacked"}
    assert decode_keep(json.dumps(fields).encode()) == REQUEST


def test_heat_is_told_if_there_is_any() -> None:
    """A message without it is as older nodes send and read it."""
    raw = encode(ImageUsed(5.0, 2.5))
    assert decode_answer(raw) == ImageUsed(5.0, 2.5)
    assert b"heat" not in encode(ImageUsed(5.0))
    assert decode_answer(encode(ImageUsed(5.0))) == ImageUsed(5.0)
    request = replace(REQUEST, heat=7.0)
    assert decode_keep(encode(request)) == request
    assert b"heat" not in encode(REQUEST)
    with pytest.raises(MessageError):
        decode_answer(b'{"kind":"seen","used":5.0,"heat":-1}')
