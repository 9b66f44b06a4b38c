"""The heads of peers' answers: accepted and refused ones."""

from __future__ import annotations

import pytest

from spegel_py.errors import DigestMismatch, PeerRefused
from spegel_py.oci.digest import Digest
from spegel_py.oci.range import ByteRange
from spegel_py.transfer.answer import check_answer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

DIGEST = Digest("sha256", "a" * 64)
OTHER = Digest("sha256", "b" * 64)
WHOLE = PeerRequest(target="/x")
PART = PeerRequest(target="/x", range=ByteRange(4, None), size=10)


def part(said: str = "bytes 4-9/10", length: str = "6") -> dict[str, str]:
    return {"Content-Range": said, "Content-Length": length}


def test_a_whole_answer_is_used() -> None:
    """A 200 with a length is the whole content, with the peer's digest and type."""
    headers = {"Content-Length": "10", "Content-Type": "a/b", "Docker-Content-Digest": str(DIGEST)}
    assert check_answer(WHOLE, 200, headers) == PeerAnswer(
        media_type="a/b", digest=DIGEST, size=10, start=0, length=10
    )


@pytest.mark.parametrize(
    ("asked", "said", "start", "length"),
    [
        (ByteRange(4, None), "bytes 4-9/10", 4, 6),
        (ByteRange(4, 5), "bytes 4-5/10", 4, 2),
        (ByteRange(None, 3), "bytes 7-9/10", 7, 3),
        (ByteRange(8, 99), "bytes 8-9/10", 8, 2),
    ],
    ids=["open", "closed", "suffix", "cut"],
)
def test_the_range_that_was_asked_is_used(
    asked: ByteRange, said: str, start: int, length: int
) -> None:
    """A 206 is used if its Content-Range is exactly the requested one, for content of that size."""
    answer = check_answer(PeerRequest(target="/x", range=asked), 206, part(said, str(length)))
    assert (answer.start, answer.length, answer.size) == (start, length, 10)


def test_a_chunked_answer_is_used_where_its_length_is_known() -> None:
    """The length comes from the range or from the known size. Two lengths are refused."""
    chunked = {"Transfer-Encoding": "chunked"}
    assert check_answer(PART, 206, chunked | {"Content-Range": "bytes 4-9/10"}).length == 6
    assert check_answer(PeerRequest(target="/x", size=10), 200, chunked).length == 10
    with pytest.raises(PeerRefused):
        check_answer(PART, 206, chunked | part())


def test_a_range_outside_the_content_is_an_answer() -> None:
    """A 416 with the size gives the content's length, and no bytes follow."""
    answer = check_answer(
        PeerRequest(target="/x", range=ByteRange(20, None)), 416, {"Content-Range": "bytes */10"}
    )
    assert (answer.start, answer.length, answer.size) == (None, 0, 10)


@pytest.mark.parametrize(
    ("request_", "status", "headers"),
    [
        pytest.param(WHOLE, 404, {}, id="404"),
        pytest.param(WHOLE, 302, {"Content-Length": "10"}, id="redirect"),
        pytest.param(WHOLE, 204, {"Content-Length": "0"}, id="204"),
        pytest.param(WHOLE, 200, {}, id="no length"),
        pytest.param(WHOLE, 200, {"Content-Length": "-1"}, id="negative length"),
        pytest.param(WHOLE, 200, {"Content-Length": "9" * 19}, id="a length that no content has"),
        pytest.param(PART, 206, part("bytes 4-9/" + "9" * 19), id="a size that no content has"),
        pytest.param(WHOLE, 200, {"Transfer-Encoding": "chunked"}, id="chunked"),
        pytest.param(WHOLE, 200, {"Content-Length": "1", "Content-Encoding": "gzip"}, id="encoded"),
        pytest.param(WHOLE, 206, part(), id="206 unasked"),
        pytest.param(PART, 200, {"Content-Length": "10"}, id="200 to a range"),
        pytest.param(PART, 206, {"Content-Length": "6"}, id="206 without a range"),
        pytest.param(PART, 206, part("bytes 3-9/10", "7"), id="other start"),
        pytest.param(PART, 206, part("bytes 4-8/10", "5"), id="other end"),
        pytest.param(PART, 206, part("bytes 4-10/11", "7"), id="other size"),
        pytest.param(PART, 206, part("bytes 4-9/*"), id="unknown size"),
        pytest.param(PART, 206, part(length="7"), id="other length"),
        pytest.param(PART, 416, {"Content-Range": "bytes */10"}, id="416 though it lies inside"),
        pytest.param(PART, 416, {}, id="416 without a size"),
    ],
)
def test_what_was_not_asked_is_refused(
    request_: PeerRequest, status: int, headers: dict[str, str]
) -> None:
    """Any other answer is PeerRefused with the peer's status."""
    with pytest.raises(PeerRefused) as refused:
        check_answer(request_, status, headers)
    assert refused.value.status == status


def test_another_digest_is_a_mismatch() -> None:
    """A peer that names another digest than the requested one is about to send wrong bytes."""
    headers = {"Content-Length": "1", "Docker-Content-Digest": str(OTHER)}
    with pytest.raises(DigestMismatch):
        check_answer(PeerRequest(target="/x", digest=DIGEST), 200, headers)


def test_a_digest_that_is_none_is_refused() -> None:
    """A Docker-Content-Digest that cannot be read is not passed on."""
    with pytest.raises(PeerRefused):
        check_answer(WHOLE, 200, {"Content-Length": "1", "Docker-Content-Digest": "x"})


@pytest.mark.parametrize("digits", [20, 5000])
def test_numbers_without_end_are_no_numbers(digits: int) -> None:
    """A header of thousands of digits is ignored, or refuses the answer.

    There is no other error.
    """
    number = "9" * digits
    assert check_answer(WHOLE, 200, {"Content-Length": "10", "Age": number}).age is None
    for headers in (
        {"Content-Length": number},
        part(said=f"bytes 4-9/{number}"),
        part(said=f"bytes 4-{number}/10"),
    ):
        with pytest.raises(PeerRefused):
            check_answer(
                PART if "Content-Range" in headers else WHOLE,
                206 if "Content-Range" in headers else 200,
                headers,
            )


def test_what_cannot_be_shown_counts_as_not_said() -> None:
    """A type goes to clients as it is, and a source to people."""
    headers = {"Content-Length": "1", "Content-Type": "a\x1b[2J", "X-Spegel-Source": "caf\xe9"}
    answer = check_answer(WHOLE, 200, headers)
    assert (answer.media_type, answer.source) == (None, None)
