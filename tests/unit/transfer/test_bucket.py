"""The limit in bytes per second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.transfer.bucket import MIN_PIECE, REFILL, TokenBucket

RATE = 10_000_000


def test_a_sender_that_waits_as_told_sends_at_the_rate() -> None:
    """Pieces and the waits after them add up to the rate."""
    bucket, now, sent = TokenBucket(rate=RATE), 0.0, 0
    while now < 10:
        sent += bucket.piece
        now += bucket.pay(bucket.piece, now)
    assert sent / now == pytest.approx(RATE, rel=0.02)


def test_many_share_the_rate_evenly() -> None:
    """Any number of senders keeps to the rate together, and each gets the same share."""
    bucket = TokenBucket(rate=RATE)
    due, sent = dict.fromkeys(range(7), 0.0), dict.fromkeys(range(7), 0)
    while (now := min(due.values())) < 10:
        sender = min(due, key=lambda each: due[each])
        sent[sender] += bucket.piece
        due[sender] = now + bucket.pay(bucket.piece, now)
    assert sum(sent.values()) / 10 == pytest.approx(RATE, rel=0.05)
    assert max(sent.values()) - min(sent.values()) <= 2 * bucket.piece


def test_idle_time_is_not_saved_up() -> None:
    """After a long pause a sender may be ahead by one step at most."""
    bucket = TokenBucket(rate=RATE)
    bucket.pay(RATE, 0.0)
    assert bucket.pay(RATE, 1000.0) == pytest.approx(1 - REFILL)


def test_what_did_not_wait_is_waited_for_by_the_next() -> None:
    """Small content that is only counted is paid for by the next waiting sender."""
    bucket = TokenBucket(rate=RATE)
    bucket.pay(RATE, 0.0)
    assert bucket.pay(RATE, 0.0) == pytest.approx(2 - REFILL)


@given(st.integers(1, 10**12))
def test_a_piece_is_never_tiny(rate: int) -> None:
    """However low the rate, a piece is worth its system call."""
    assert TokenBucket(rate=rate).piece >= MIN_PIECE
