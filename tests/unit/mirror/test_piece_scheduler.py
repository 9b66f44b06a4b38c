"""The assignment of pieces to peers, with the test's own time."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.mirror.parallel_download import DUPLICATE_AFTER, PieceRange, PieceScheduler


@given(
    first=st.integers(0, 50),
    length=st.integers(1, 300),
    piece=st.integers(1, 40),
    window=st.integers(1, 6),
    peers=st.integers(1, 5),
    seed=st.integers(),
)
def test_the_client_gets_all_bytes_in_order(
    first: int, length: int, piece: int, window: int, peers: int, seed: int
) -> None:
    """Whichever peer gives which piece when, is late, or fails.

    The bytes are right, and memory stays within the window.
    """
    content, random, now = (
        bytes(number % 256 for number in range(first + length)),
        Random(seed),
        0.0,
    )
    plan = PieceScheduler(first=first, last=first + length - 1, piece=piece, window=window)
    got, asked = bytearray(), dict[int, PieceRange]()
    while not plan.is_done:
        now += random.choice([0.01, DUPLICATE_AFTER])
        peer = random.randrange(peers)
        if peer not in asked:
            if (taken := plan.take(peer, now)) is not None:
                asked[peer] = taken
        elif random.random() < 0.2:
            del asked[peer]
            plan.give_up(peer)
        else:
            done = asked.pop(peer)
            plan.put(done, content[done.first : done.last + 1])
        while random.random() < 0.7 and (data := plan.pop_data()) is not None:
            got += data
        held = sum(len(data) for data in plan._ready.values())
        assert held <= window * piece
        assert all(one.first < first + len(got) + window * piece for one in asked.values())
    assert bytes(got) == content[first:]


def test_pieces_are_handed_out_within_the_window() -> None:
    """If the client reads nothing, no peer is asked for more than the window holds."""
    plan = PieceScheduler(first=10, last=99, piece=10, window=2)
    first, second = plan.take("a", 0), plan.take("b", 0)
    assert (first, second) == (PieceRange(10, 19), PieceRange(20, 29))
    assert plan.take("c", 0) is None
    assert first
    plan.put(first, b"x" * 10)
    assert plan.take("a", 0) is None
    assert plan.pop_data() == b"x" * 10
    assert plan.take("a", 0) == PieceRange(30, 39)


def test_what_a_peer_did_not_give_is_asked_of_the_next() -> None:
    """A failed peer's piece goes before new pieces."""
    plan = PieceScheduler(first=0, last=99, piece=10, window=5)
    lost = plan.take("a", 0)
    plan.take("b", 0)
    plan.give_up("a")
    assert plan.take("c", 0) == lost


def test_a_piece_that_holds_up_the_client_is_asked_of_a_second_peer() -> None:
    """After a while an idle peer is asked for the piece too, once. The first answer counts."""
    plan = PieceScheduler(first=0, last=19, piece=10, window=2)
    late, other = plan.take("slow", 0), plan.take("quick", 0)
    assert late
    assert other
    plan.put(other, b"y" * 10)
    assert plan.take("quick", DUPLICATE_AFTER / 2) is None
    assert plan.take("quick", DUPLICATE_AFTER) == late
    assert plan.take("third", 9) is None
    assert plan.put(late, b"x" * 10)
    assert not plan.put(late, b"x" * 10)
    assert (plan.pop_data(), plan.pop_data(), plan.is_done) == (b"x" * 10, b"y" * 10, True)


def test_a_second_peer_that_fails_takes_nothing_away() -> None:
    """The piece stays with the first peer."""
    plan = PieceScheduler(first=0, last=9, piece=10, window=2)
    late = plan.take("slow", 0)
    assert plan.take("quick", DUPLICATE_AFTER) == late
    plan.give_up("quick")
    assert plan.take("third", DUPLICATE_AFTER) == late
    plan.give_up("slow")
    plan.give_up("third")
    assert plan.take("fourth", DUPLICATE_AFTER) == late
