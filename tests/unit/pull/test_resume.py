"""The decisions of pulling one blob."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.errors import DigestMismatch, PeerRefused, PeerUnreachable
from spegel_py.pull import resume
from spegel_py.pull.resume import BodyUse, RetryState


@pytest.mark.parametrize(
    ("status", "content_range", "length", "offset", "step"),
    [
        pytest.param(200, None, 100, 0, BodyUse.APPEND, id="whole"),
        pytest.param(200, None, None, 0, BodyUse.APPEND, id="whole, chunked"),
        pytest.param(200, None, 100, 40, BodyUse.RESTART, id="range ignored"),
        pytest.param(206, "bytes 40-99/100", 60, 40, BodyUse.APPEND, id="rest"),
        pytest.param(206, "bytes 40-59/100", 20, 40, BodyUse.APPEND, id="part of the rest"),
        pytest.param(206, "bytes 0-99/100", 100, 0, BodyUse.APPEND, id="206 for the whole"),
    ],
)
def test_answers_that_are_used(
    status: int, content_range: str | None, length: int | None, offset: int, step: BodyUse
) -> None:
    """A 206 from our end resumes. A 200 restarts."""
    assert (
        resume.judge_answer(
            status=status, content_range=content_range, length=length, offset=offset, size=100
        )
        is step
    )


@pytest.mark.parametrize(
    ("status", "content_range", "length"),
    [
        pytest.param(200, None, 99, id="another length"),
        pytest.param(206, None, 60, id="no Content-Range"),
        pytest.param(206, "bytes */100", 60, id="no range in it"),
        pytest.param(206, "bytes 0-99/100", 100, id="another start"),
        pytest.param(206, "bytes 41-99/100", 59, id="a gap"),
        pytest.param(206, "bytes 40-99/101", 60, id="another size"),
        pytest.param(206, "bytes 40-99/100", 10, id="length and range differ"),
        pytest.param(204, None, 0, id="another status"),
    ],
)
def test_answers_that_are_not_used(status: int, content_range: str | None, length: int) -> None:
    """An answer is written only if it is exactly the rest, or the whole, of this blob."""
    step = resume.judge_answer(
        status=status, content_range=content_range, length=length, offset=40, size=100
    )
    assert isinstance(step, str)


def test_the_range_asked_for_is_containerds() -> None:
    """The whole is requested without a range, the rest with an open range."""
    assert resume.range_after(0) is None
    assert str(resume.range_after(40)) == "bytes=40-"


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=resume.ATTEMPTS - 1))
def test_progress_keeps_patience(steps: list[int]) -> None:
    """While every attempt makes progress the blob is not given up, and there is no pause."""
    retries, offset = RetryState(), 0
    for step in steps:
        offset += step
        retries = retries.after(PeerUnreachable("broke off"), offset)
        assert not retries.is_over
        assert retries.pause == 0


def test_no_progress_ends() -> None:
    """Pauses grow after attempts without progress, and then the blob is given up."""
    retries, pauses = RetryState(reached=40), []
    while not retries.is_over:
        retries = retries.after(PeerUnreachable("refused"), 40)
        pauses.append(retries.pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8]


def test_a_drip_ends() -> None:
    """A mirror that gives one byte for each attempt is given up in the end."""
    retries = RetryState()
    for offset in range(1, resume.ATTEMPTS + 1):
        assert not retries.is_over
        retries = retries.after(PeerUnreachable("broke off"), offset)
    assert retries.is_over


def test_going_round_in_circles_is_no_progress() -> None:
    """A blob that restarts each time (200 for a range) must get further than before to count."""
    retries = RetryState().after(PeerUnreachable("broke off"), 50)
    for _ in range(resume.FRUITLESS):
        retries = retries.after(PeerUnreachable("broke off"), 50)
    assert retries.is_over


def test_wrong_bytes_twice_end() -> None:
    """The first mismatch may come from an old part. The second does not."""
    once = RetryState(reached=10).after(DigestMismatch("wrong"), 0)
    assert not once.is_over
    assert once.after(DigestMismatch("wrong"), 0).is_over


@pytest.mark.parametrize(
    ("status", "is_over"),
    [(400, True), (401, True), (403, True), (416, False), (429, False), (500, False), (503, False)],
)
def test_refusals(status: int, is_over: bool) -> None:
    """A permanent refusal is not retried. A temporary one is."""
    assert RetryState().after(PeerRefused("refused", status=status), 0).is_over is is_over
