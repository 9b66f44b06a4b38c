"""How many connections and peers one address may hold."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.routing.libp2p import bounds
from spegel_py.routing.libp2p.bounds import (
    MESSAGES,
    MESSAGES_PER_SECOND,
    ON_LOOPBACK,
    ConnectionCounts,
    MessageBudget,
    PeerExceedsBound,
    bound_key,
    count_nodes,
    is_full,
)


@pytest.mark.parametrize(
    ("address", "limit"), [("10.0.0.1", 3), ("2001:db8::1", 3), ("127.0.0.1", ON_LOOPBACK)]
)
def test_an_address_holds_so_many_connections(address: str, limit: int) -> None:
    """One more is refused until a connection has ended; other addresses are not affected."""
    book = ConnectionCounts(3)
    held = [book.one_more(address) for _ in range(limit)]
    for each in held:
        each.__enter__()
    with pytest.raises(PeerExceedsBound, match=address), book.one_more(address):
        pass
    with book.one_more("10.0.0.2"):
        pass
    held[0].__exit__(None, None, None)
    with book.one_more(address):
        pass
    for each in held[1:]:
        each.__exit__(None, None, None)
    assert not book._held


def test_peers_at_one_address_stand_for_one() -> None:
    """On loopback, where whole clusters run, each stands for itself."""
    assert {bound_key("10.0.0.1", peer) for peer in "abc"} == {"10.0.0.1"}
    assert (
        {bound_key("127.0.0.1", peer) for peer in "abc"}
        == {bound_key("", peer) for peer in "abc"}
        == {"a", "b", "c"}
    )
    assert is_full(16, "10.0.0.1", limit=16)
    assert not is_full(16, "127.0.0.1", limit=16)


@given(st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "127.0.0.1", "::1", ""])))
def test_peers_count_as_many_nodes_as_they_have_keys(addresses: list[str]) -> None:
    keys = {bound_key(address, str(peer)) for peer, address in enumerate(addresses)}
    assert count_nodes(addresses) == len(keys)


def test_a_flood_of_messages_is_slowed_down() -> None:
    """Not the first ones, not others' messages, and not longer than the flood lasts."""

    async def flood() -> tuple[float, float, float]:
        budget, start = MessageBudget(), trio.current_time()
        for _ in range(MESSAGES):
            await budget.spend("10.0.0.1", 1)
        at_once = trio.current_time() - start
        for _ in range(MESSAGES_PER_SECOND * 3 // 5):
            await budget.spend("10.0.0.1", 5)
        slowed = trio.current_time() - start
        await budget.spend("10.0.0.2", 1)
        await trio.sleep(MESSAGES / MESSAGES_PER_SECOND)
        calm = trio.current_time()
        await budget.spend("10.0.0.1", MESSAGES)
        return at_once, slowed, trio.current_time() - calm

    at_once, slowed, after = trio.run(flood, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [at_once, slowed, after] == pytest.approx([0.0, 3.0, 0.0])


def test_budgets_of_addresses_that_fell_silent_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Churn costs no memory."""
    monkeypatch.setattr(bounds, "MAX_BUDGETS", 10)
    budget = MessageBudget()

    async def churn() -> None:
        for number in range(100):
            await budget.spend(f"10.0.0.{number}", 1)
            await trio.sleep(1)

    trio.run(churn, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(budget._spent_until) <= 10
