"""Which peer is pinged, and how a doubt about it goes on, without clocks."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spegel_py.routing.libp2p.failure_detector import (
    ASK_TIMEOUT,
    CONFIRMATIONS,
    HELPERS,
    LATE,
    PING_TIMEOUT,
    SPREAD,
    SUSPICION,
    UNREACHABLE,
    WORST,
    Action,
    AskOthers,
    DropPeer,
    FailureDetector,
    Stage,
    SuspectPeer,
    suspicion,
)


def detector(count: int = 5, own: str = "n0") -> FailureDetector:
    """Return the detector of one node among n0, n1, ... that are all connected."""
    names = frozenset(f"n{number}" for number in range(count))
    return FailureDetector(own=own, random=Random(1), peers=names - {own})


def until(
    one: FailureDetector, end: float, *, start: float = 0.0, step: float = 0.05
) -> list[tuple[float, Action]]:
    """Return the actions that are due up to `end`, each with its time; remove dropped peers."""
    found: list[tuple[float, Action]] = []
    for tick in range(round((end - start) / step) + 1):
        now = start + tick * step
        for action in list(one.due(now)):
            found.append((now, action))
            if isinstance(action, DropPeer):
                one.remove(action.peer)
    return found


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**10))
def test_each_member_is_pinged_by_one_other_in_each_turn(count: int, turn: int) -> None:
    """With clocks that agree, the members ping each other in a ring that shifts every second."""
    names = [f"n{number:02}" for number in range(count)]
    all_detectors = [
        FailureDetector(own=name, random=Random(1), peers=frozenset(names) - {name})
        for name in names
    ]
    assert sorted(str(one.next_target(turn)) for one in all_detectors) == names


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**10))
def test_every_peer_is_pinged_in_one_round(count: int, turn: int) -> None:
    """In as many turns as there are peers, each of them is pinged once."""
    one = detector(count)
    pinged = Counter(one.next_target(turn + step) for step in range(count - 1))
    assert set(pinged.values()) == {1}
    assert len(pinged) == count - 1


def test_a_peer_in_doubt_gives_its_turn_to_the_next() -> None:
    """It is pinged already; with all in doubt there is nobody to ping."""
    one = detector(4)
    for _ in range(3):
        target = one.next_target(7)
        assert target is not None
        one.pinged(target, 0.0)
    assert one.next_target(7) is None
    assert FailureDetector(own="n0", random=Random(1)).next_target(7) is None


def test_a_peer_that_answers_is_in_no_doubt() -> None:
    """Nothing is due after a pong."""
    one = detector()
    one.pinged("n1", 0.0)
    assert one.silent_since("n1") == 0.0
    assert one.answered("n1", 0.9) is Stage.PINGED
    assert one.heard_at("n1") == 0.9
    assert until(one, 30) == []
    assert one.answered("n1", 31.0) is None, "an answer that nobody waits for"


def test_a_silent_peer_goes_through_all_stages() -> None:
    """Three helpers are asked after a second; they hear nothing; all are told; it is dropped."""
    one = detector(20)
    one.pinged("n1", 0.0)
    [(at, asked)] = until(one, 2.0)
    assert at == pytest.approx(PING_TIMEOUT)
    assert isinstance(asked, AskOthers)
    assert not asked.is_suspicion
    assert len(asked.members) == HELPERS
    assert not {"n0", "n1"} & set(asked.members)
    for helper in asked.members:
        one.replied("n1", by=helper, hears=False, now=2.0)
    suspected, told = until(one, 2.1, start=2.0)
    assert suspected == (2.0, SuspectPeer("n1", 3))
    assert isinstance(told[1], AskOthers)
    assert told[1].is_suspicion
    assert len(told[1].members) == 18
    assert one.left("n1", 2.5) == pytest.approx(SUSPICION[0] - 0.5)
    [(at, dropped)] = until(one, 9.0, start=2.1)
    assert at == pytest.approx(2.0 + SUSPICION[0])
    assert isinstance(dropped, DropPeer)
    assert dropped.seconds == pytest.approx(2.0 + SUSPICION[0])


def test_without_a_third_member_a_silent_peer_is_dropped_later() -> None:
    """Two nodes have nobody to ask: the suspicion takes its longest time, below ten seconds."""
    one = detector(2)
    one.pinged("n1", 0.0)
    actions = until(one, 6.0)
    assert [type(action) for _, action in actions] == [SuspectPeer, DropPeer]
    assert actions[-1][0] == pytest.approx(PING_TIMEOUT + SUSPICION[1])


def test_helpers_that_do_not_reply_are_waited_for_a_while() -> None:
    """They may be dead too."""
    one = detector(20)
    one.pinged("n1", 0.0)
    times = {type(action): at for at, action in until(one, 20.0)}
    assert times[SuspectPeer] == pytest.approx(PING_TIMEOUT + ASK_TIMEOUT)
    assert times[DropPeer] == pytest.approx(times[SuspectPeer] + SUSPICION[1])


def test_an_answer_refutes_a_suspicion_at_the_last_moment() -> None:
    """The peer itself proves that it lives; nothing is left of the doubt."""
    one = detector(2)
    one.pinged("n1", 0.0)
    until(one, 5.9)
    assert one.left("n1", 5.9) == pytest.approx(0.1)
    assert one.answered("n1", 5.95) is Stage.SUSPECTED
    assert one.left("n1", 5.95) is None
    assert until(one, 30.0, start=6.0) == []


def test_a_peer_that_others_hear_is_not_suspected_but_dropped_in_the_end() -> None:
    """It is out of reach of this node only: nobody is told, and this node suspects itself."""
    one = detector(20)
    one.pinged("n1", 0.0)
    [(_, asked)] = until(one, 1.0)
    assert isinstance(asked, AskOthers)
    before = one.health.score
    one.replied("n1", by=asked.members[0], hears=True, now=1.1)
    one.replied("n1", by=asked.members[1], hears=True, now=1.1)
    assert one.health.score == before + 1
    [(at, action)] = until(one, 20.0, start=1.1)
    assert isinstance(action, DropPeer)
    assert at == pytest.approx(UNREACHABLE * one.health.patience, abs=0.06)


def test_no_report_can_have_a_peer_dropped_that_answers() -> None:
    """However many members accuse it, at any time: a pong is stronger."""
    one = detector(40)
    for number in range(2, 40):
        one.accused("n1", by=f"n{number}", now=0.0)
    assert until(one, 30.0) == [], "accusations alone are nothing: the peer must be pinged"
    one.pinged("n1", 30.0)
    for number in range(2, 40):
        one.accused("n1", by=f"n{number}", now=30.0)
        one.replied("n1", by=f"n{number}", hears=False, now=30.0)
    one.answered("n1", 30.3)
    assert until(one, 60.0, start=30.3) == []


def test_a_reported_peer_is_suspected_after_one_own_ping() -> None:
    """Its accuser has asked helpers already. It is told on only while few have told of it."""
    one = detector(20)
    one.pinged("n1", 0.0)
    one.accused("n1", by="n2", now=0.0)
    actions = until(one, 10.0)
    assert actions[0][0] == pytest.approx(PING_TIMEOUT)
    assert actions[0][1] == SuspectPeer("n1", 1)
    (told_at, told), (_, dropped) = actions[1:]
    assert isinstance(told, AskOthers)
    assert told_at <= PING_TIMEOUT + SPREAD + 0.05
    assert isinstance(dropped, DropPeer)

    well_known = detector(20)
    well_known.pinged("n1", 0.0)
    for number in range(2, 2 + CONFIRMATIONS):
        well_known.accused("n1", by=f"n{number}", now=0.0)
    kinds = [type(action) for _, action in until(well_known, 10.0)]
    assert kinds == [SuspectPeer, DropPeer], "three others have told all"


def test_a_late_node_blames_nobody_for_its_own_delay() -> None:
    """A minute in which this node stood still is left out, and its patience grows."""
    one = detector(2)
    one.pinged("n1", 0.0)
    one.stood_still(60.0)
    assert list(one.due(60.5)) == []
    times = {type(action): at for at, action in until(one, 90.0, start=60.5)}
    patience = one.health.patience
    assert patience > 1
    assert times[DropPeer] == pytest.approx(60 + (PING_TIMEOUT + SUSPICION[1]) * patience, abs=0.06)


def test_patience_is_bounded_and_comes_back() -> None:
    """A node that is always late has three times the patience, and the usual one after pongs."""
    one = detector()
    for _ in range(20):
        one.stood_still(LATE)
    assert one.health.score == WORST
    assert one.health.patience == 3.0
    for number in range(WORST):
        one.pinged("n1", float(number))
        one.answered("n1", number + 0.1)
    assert one.health.patience == 1.0


def test_the_next_look_is_told() -> None:
    """Nothing is due before it."""
    one = detector(20)
    one.pinged("n1", 0.0)
    now, actions = 0.0, list[Action]()
    while (now := one.next_at()) < 100:
        assert list(one.due(now - 0.001)) == []
        actions += list(one.due(now))
        if isinstance(actions[-1], DropPeer):
            one.remove("n1")
    assert [type(action) for action in actions] == [AskOthers, SuspectPeer, AskOthers, DropPeer]


def test_only_members_that_ping_too_are_asked() -> None:
    """Older versions and Spegel's own nodes are pinged, and asked nothing."""
    one = FailureDetector(own="n0", random=Random(1))
    for name in ("n1", "n2", "n3"):
        one.add(name)
    one.set_helper("n3", on=True)
    one.set_helper("n9", on=True)
    assert one.is_helper("n3")
    assert not one.is_helper("n9"), "it is not connected"
    one.pinged("n1", 0.0)
    assert list(one.due(PING_TIMEOUT)) == [AskOthers("n1", ("n3",), is_suspicion=False)]
    one.remove("n3")
    assert not one.is_helper("n3")


def test_the_first_confirmation_counts_most() -> None:
    """Lifeguard's formula: from the longest to the shortest suspicion."""
    times = [suspicion(number) for number in range(CONFIRMATIONS + 3)]
    assert times[0] == SUSPICION[1]
    assert times[CONFIRMATIONS:] == [pytest.approx(SUSPICION[0])] * 3
    assert times[0] - times[1] > times[1] - times[2] > times[2] - times[3] > 0


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("ping", "pong", "accuse", "reply", "add", "remove", "still")),
        st.integers(0, 4),
        st.integers(0, 6),
        st.floats(0, 3),
    ),
    max_size=60,
)


class Owing:
    """A detector, and since when each peer owes an answer."""

    def __init__(self) -> None:
        self.detector = detector(5)
        self.since: dict[str, float] = {}

    def apply(self, kind: str, number: int, other: int, seconds: float, now: float) -> None:
        name, one = f"n{number}", self.detector
        match kind:
            case "ping":
                one.pinged(name, now)
                self.since.setdefault(name, now)
            case "pong":
                one.answered(name, now)
                self.since.pop(name, None)
            case "accuse":
                one.accused(name, by=f"n{other}", now=now)
            case "reply":
                one.replied(name, by=f"n{other}", hears=(None, True, False)[other % 3], now=now)
            case "add":
                one.add(name)
            case "remove":
                self.remove(name)
            case "still":
                one.stood_still(seconds)

    def remove(self, name: str) -> None:
        self.detector.remove(name)
        self.since.pop(name, None)


@settings(deadline=None)
@given(_EVENTS)
def test_a_peer_is_dropped_for_its_own_silence_only(
    events: list[tuple[str, int, int, float]],
) -> None:
    """Whatever happens: a dropped peer owes an answer for as long as the rules say, and no state is
    kept of peers that are gone."""
    one, now = Owing(), 0.0
    for kind, number, other, seconds in events:
        now += seconds
        one.apply(kind, number, other, seconds, now)
        for action in list(one.detector.due(now)):
            if isinstance(action, DropPeer):
                assert now - one.since[action.peer] >= PING_TIMEOUT + SUSPICION[0]
                one.remove(action.peer)
    for number in range(5):
        one.remove(f"n{number}")
    assert one.detector.next_at() == float("inf")
