"""The coordinator's decisions about one digest."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.messages import (
    Assignment,
    FetchUncoordinated,
    FetchUpstream,
    FollowParent,
    Heartbeat,
    ParentFault,
    ParentRequest,
    RetryLater,
    Role,
)
from spegel_py.inflight.pull_tree import PullTree
from spegel_py.inflight.rules import InFlightRules
from spegel_py.oci.digest import Digest

DIGEST = Digest.of(b"layer")
RULES = InFlightRules()
MIB = 1024 * 1024


@dataclass
class Talk:
    """A tree and a clock; leaders send a heartbeat every second, as real ones do."""

    tree: PullTree = field(default_factory=lambda: PullTree(rules=RULES))
    now: float = 100.0

    def ask(self, name: str, offset: int = 0, *, serves: bool = True) -> Assignment:
        return self.tree.assign(name, ParentRequest(DIGEST, offset, serves), self.now)

    def complain(self, name: str, bad: str, why: ParentFault, offset: int = 0) -> Assignment:
        return self.tree.assign(name, ParentRequest(DIGEST, offset, bad=bad, why=why), self.now)

    def note(self, name: str, role: Role, offset: int = 0, parent: str | None = None) -> float:
        return self.tree.record_heartbeat(name, Heartbeat(DIGEST, role, offset, parent), self.now)

    def parent(self, answer: Assignment) -> str:
        assert isinstance(answer, FollowParent)
        return answer.parent


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def chain() -> Talk:
    """A leads and has 10 MiB; B takes it from A, C from B."""
    talk = Talk()
    for name in "ABC":
        talk.ask(name)
    talk.now += 1
    talk.note("A", Role.LEADER, 10 * MIB)
    return talk


def test_the_first_leads_and_the_others_follow_in_a_chain(talk: Talk) -> None:
    """The first node to ask for new content goes upstream.

    Each later node follows the one before.
    """
    assert [talk.ask(name) for name in "ABCD"] == [
        FetchUpstream(RULES.leader_heartbeat),
        FollowParent("A", 1, RULES.heartbeat),
        FollowParent("B", 2, RULES.heartbeat),
        FollowParent("C", 3, RULES.heartbeat),
    ]


def test_whoever_has_it_all_feeds_first(chain: Talk) -> None:
    """A node with the complete content is as good as a source, and free."""
    chain.note("C", Role.COMPLETE, 20 * MIB)
    assert chain.ask("D") == FollowParent("C", 1, RULES.heartbeat)


def test_in_a_large_cluster_each_speaks_less_often(talk: Talk) -> None:
    """A follower's interval grows with their number, so that the coordinator is not overloaded.

    A leader's does not.
    """
    answers = [talk.ask(f"n{number}") for number in range(200)]
    assert isinstance(answers[-1], FollowParent)
    assert answers[-1].renew == pytest.approx(10.0)
    assert talk.note("n0", Role.LEADER, 1) == RULES.leader_heartbeat


def test_when_the_leader_goes_the_first_that_asks_leads(chain: Talk) -> None:
    """The leader's follower goes upstream from its own byte. The nodes below it stay there."""
    chain.tree.remove("A")
    chain.now += 1
    assert chain.complain("B", "A", ParentFault.DEAD, 4 * MIB) == FetchUpstream(
        RULES.leader_heartbeat
    )
    assert chain.tree.parents() == {"C": "B"}
    assert chain.parent(chain.ask("D")) == "C"


def test_a_newcomer_yields_to_those_that_have_more(chain: Talk) -> None:
    """A node without bytes is not sent upstream before half-done nodes have asked.

    It waits only once.
    """
    chain.note("B", Role.FOLLOWER, 9 * MIB, parent="A")
    chain.tree.remove("A")
    chain.now += 1
    assert chain.ask("D") == RetryLater(RULES.accused_timeout)
    assert isinstance(chain.complain("B", "A", ParentFault.DEAD, 9 * MIB), FetchUpstream)
    chain.tree.remove("B")
    chain.note("C", Role.FOLLOWER, 8 * MIB, parent="B")
    chain.now += RULES.accused_timeout
    assert isinstance(chain.ask("D"), FetchUpstream)


def test_of_those_that_wait_the_one_with_most_goes_upstream() -> None:
    """A new tree knows only the nodes that asked.

    The one with the fewest bytes may be first when the wait is over.
    """
    talk = Talk(PullTree(rules=RULES, settled=101.0))
    assert talk.ask("A") == RetryLater(1.0)
    assert talk.ask("B", 50 * MIB) == RetryLater(1.0)
    talk.now = 101.0
    assert talk.ask("A") == RetryLater(RULES.accused_timeout)
    assert isinstance(talk.ask("B", 50 * MIB), FetchUpstream)
    assert talk.parent(talk.ask("A")) == "B"


def test_when_one_in_the_middle_goes_the_next_takes_its_place(chain: Talk) -> None:
    """Its follower gets another parent, and nobody is sent upstream."""
    chain.tree.remove("B")
    assert chain.parent(chain.complain("C", "B", ParentFault.DEAD)) == "A"


def test_what_was_fetched_and_deleted_is_fetched_again_without_a_pause(talk: Talk) -> None:
    """Upstream sends the content: it is spared only while no leader gets a byte."""
    for name in "ABCDEF":
        assert isinstance(talk.ask(name), FetchUpstream)
        talk.now += 0.05
        talk.note(name, Role.COMPLETE, 1000)
        talk.now += 0.05
        assert talk.parent(talk.ask("X")) == name
        assert isinstance(talk.complain("X", name, ParentFault.REFUSED), FetchUpstream)
        talk.note("X", Role.COMPLETE, 1000)
        talk.tree.remove("X")


def test_a_leader_that_says_that_it_failed_is_followed_by_another_after_a_pause(talk: Talk) -> None:
    """An upstream that refuses is asked by one node at a time.

    The pauses grow until a leader gets a byte.
    """
    talk.ask("A")
    pauses = []
    for number in range(5):
        talk.note("A", Role.LEFT)
        answer = talk.ask("A")
        assert isinstance(answer, RetryLater), number
        pauses.append(answer.seconds)
        talk.now += answer.seconds
        assert isinstance(talk.ask("A"), FetchUpstream)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0]
    talk.now += 1
    talk.note("A", Role.LEADER, 1)
    talk.note("A", Role.LEFT)
    talk.now += 8
    assert isinstance(talk.ask("A"), FetchUpstream)
    assert talk.ask("B") == FollowParent("A", 1, RULES.heartbeat)


def test_only_one_of_many_that_lost_their_leader_goes_upstream(talk: Talk) -> None:
    """Of 20 followers the first one leads, and the rest are sent to it and to each other."""
    for number in range(20):
        talk.ask(f"n{number}")
    talk.now += 2
    talk.tree.remove("n0")
    answers = [talk.complain(f"n{number}", "n0", ParentFault.DEAD) for number in range(1, 20)]
    assert [type(answer) for answer in answers] == [FetchUpstream] + 18 * [FollowParent]


def test_a_leader_that_falls_silent_is_given_up(chain: Talk) -> None:
    """Without a heartbeat for its whole lease it gets no more followers."""
    chain.now += RULES.leader_lease
    assert isinstance(chain.ask("D"), FetchUpstream)


def test_a_leader_that_gets_nothing_gives_way_until_it_does(chain: Talk) -> None:
    """A leader that stalls while other nodes wait is no source.

    Its next byte makes it one again.
    """
    for _ in range(6):
        chain.now += 1
        chain.note("A", Role.LEADER, 10 * MIB)
    assert isinstance(chain.ask("D"), FetchUpstream)
    assert chain.tree.leaders() == ["D"]
    chain.note("A", Role.LEADER, 11 * MIB)
    assert set(chain.tree.leaders()) == {"A", "D"}


def test_a_leader_that_others_complain_of_must_speak(chain: Talk) -> None:
    """One complaint moves only its sender.

    For all other nodes the leader's next heartbeat decides.
    """
    chain.now += 0.5
    assert isinstance(
        chain.complain("B", "A", ParentFault.DEAD), FetchUpstream
    )  # it cannot reach it, whatever the others can
    assert chain.tree.leaders() == ["A", "B"]
    chain.note("A", Role.LEADER, 12 * MIB)
    chain.now += RULES.accused_timeout
    assert chain.parent(chain.ask("D")) == "A"
    chain.complain("D", "A", ParentFault.SHORT)
    chain.now += RULES.accused_timeout
    chain.tree.expire(chain.now)
    assert chain.tree.leaders() == ["B"]


def test_who_could_not_reach_a_source_is_not_sent_there_again(chain: Talk) -> None:
    """That holds for a while, even after a complaint about another parent."""
    chain.note("C", Role.COMPLETE, 20 * MIB)
    chain.note("D", Role.COMPLETE, 20 * MIB)
    assert chain.parent(chain.ask("E")) == "C"
    assert chain.parent(chain.complain("E", "C", ParentFault.DEAD)) == "D"
    assert chain.parent(chain.complain("E", "D", ParentFault.DEAD)) in {"A", "B"}


def test_a_holder_that_has_it_no_more_is_forgotten(chain: Talk) -> None:
    """The content was garbage-collected in the meantime."""
    chain.note("H", Role.COMPLETE, 20 * MIB)
    chain.complain("C", "H", ParentFault.REFUSED)
    assert chain.parent(chain.ask("D")) != "H"


def test_who_stalls_with_its_source_stays(chain: Talk) -> None:
    """While the leader has no more bytes, another parent would not have them.

    Once it has more, the fault is nearer.
    """
    assert chain.complain("B", "A", ParentFault.STALL, 10 * MIB) == FollowParent(
        "A", 1, RULES.heartbeat
    )
    assert chain.complain("C", "B", ParentFault.STALL, 10 * MIB) == FollowParent(
        "B", 2, RULES.heartbeat
    )
    assert chain.parent(chain.complain("C", "B", ParentFault.STALL, 9 * MIB)) == "A"


def test_a_slow_source_is_left_only_if_it_could_give_more(chain: Talk) -> None:
    """A parent with few unsent bytes waits for its own parent.

    A parent with many is avoided for long.
    """
    assert chain.parent(chain.complain("B", "A", ParentFault.SLOW, 7 * MIB)) == "A"
    assert isinstance(chain.complain("B", "A", ParentFault.SLOW, 5 * MIB), FetchUpstream)
    for second in range(round(2 * RULES.avoid)):
        chain.now += 1
        chain.note("A", Role.LEADER, (20 + second) * MIB)
        chain.note("B", Role.LEADER, (6 + second) * MIB)
    assert isinstance(chain.ask("B", 30 * MIB), FetchUpstream)


def test_a_busy_source_is_left_alone_for_a_while(chain: Talk) -> None:
    """A parent without a free slot gets no followers, and no node goes upstream because of that.

    A slot comes free.
    """
    only = Talk()
    only.ask("A")
    assert only.parent(only.ask("B")) == "A"
    assert only.complain("B", "A", ParentFault.BUSY) == RetryLater(RULES.busy)
    only.now += 1
    only.note("A", Role.LEADER, MIB)
    assert only.ask("B") == RetryLater(RULES.busy - 1)
    only.now += 1
    assert only.parent(only.ask("B")) == "A"


def test_a_leaf_takes_and_gives_nothing(talk: Talk) -> None:
    """A node that cannot serve its bytes never leads for other nodes, nor feeds them."""
    assert talk.ask("leaf", serves=False) == FetchUncoordinated()
    talk.ask("A")
    assert talk.parent(talk.ask("leaf", serves=False)) == "A"
    assert talk.parent(talk.ask("B")) == "A"
    assert talk.parent(talk.ask("C")) == "B"


def test_each_holder_feeds_a_chain_of_its_own(talk: Talk) -> None:
    """As many nodes as there are holders fetch from these.

    All later nodes follow in chains, at once.
    """
    answers = [talk.tree.assign(name, ParentRequest(DIGEST, held=2), talk.now) for name in "ABCDE"]
    assert [type(answer) for answer in answers] == [
        FetchUpstream,
        FetchUpstream,
        FollowParent,
        FollowParent,
        FollowParent,
    ]
    assert talk.tree.parents() == {"C": "A", "D": "B", "E": "C"}
    talk.note("H", Role.COMPLETE, 20 * MIB)
    assert isinstance(talk.tree.assign("F", ParentRequest(DIGEST, held=3), talk.now), FetchUpstream)
    assert talk.parent(talk.tree.assign("G", ParentRequest(DIGEST, held=3), talk.now)) == "F"
    assert (
        talk.tree.assign("leaf", ParentRequest(DIGEST, serves=False, held=9), talk.now)
        == FetchUncoordinated()
    )


def test_a_tree_that_is_new_waits_for_what_is_in_flight() -> None:
    """Until it is settled it sends nobody upstream.

    A node that it hears of meanwhile is a source at once.
    """
    talk = Talk(PullTree(rules=RULES, settled=100.5))
    assert talk.ask("B") == RetryLater(0.5)
    talk.note("C", Role.FOLLOWER, MIB, parent="A")
    assert talk.ask("B") == RetryLater(0.5)
    talk.note("A", Role.LEADER, 2 * MIB)
    assert talk.parent(talk.ask("B")) == "C"


def test_a_ring_that_others_made_feeds_nobody(talk: Talk) -> None:
    """Two nodes that report to follow each other have no source. One of them leads when it asks."""
    talk.note("A", Role.FOLLOWER, MIB, parent="B")
    talk.note("B", Role.FOLLOWER, MIB, parent="A")
    assert isinstance(talk.ask("C"), FetchUpstream)
    assert talk.parent(talk.complain("A", "B", ParentFault.STALL, MIB)) == "C"


NAMES = st.sampled_from("ABCDEF")
OFFSETS = st.integers(0, 12).map(lambda mib: mib * MIB)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), NAMES, OFFSETS, st.booleans()),
        st.tuples(st.just("complain"), NAMES, OFFSETS, NAMES, st.sampled_from(ParentFault)),
        st.tuples(st.just("note"), NAMES, OFFSETS, st.sampled_from(Role), NAMES),
        st.tuples(st.just("lost"), NAMES),
        st.tuples(st.just("pass"), st.sampled_from([0.1, 1.0, 1.6, 4.5, 7.0, 30.0])),
    ),
    max_size=50,
)


def take(talk: Talk, step: tuple[object, ...]) -> Assignment | None:
    """Make one step; return the answer to a parent request."""
    match step:
        case ("ask", str(name), int(offset), bool(serves)):
            return talk.ask(name, offset, serves=serves)
        case ("complain", str(name), int(offset), str(bad), ParentFault() as why):
            return talk.complain(name, bad, why, offset)
        case ("note", str(name), int(offset), Role() as role, str(parent)):
            talk.note(name, role, offset, parent if role is Role.FOLLOWER else None)
        case ("lost", str(name)):
            talk.tree.remove(name)
        case ("pass", float(seconds)):
            talk.now += seconds
    return None


def has_ring(parents: dict[str, str]) -> bool:
    for start in parents:
        at, steps = start, 0
        while at in parents:
            at, steps = parents[at], steps + 1
            if steps > len(parents):
                return True
    return False


@given(STEPS)
def test_whatever_nodes_say_nobody_is_sent_in_a_ring(steps: list[tuple[object, ...]]) -> None:
    """Every answer is a parent whose chain has a source, a bounded pause, or upstream."""
    talk = Talk()
    for step in steps:
        answer = take(talk, step)
        parents = talk.tree.parents()
        assert not has_ring(parents)
        match answer:
            case FollowParent(parent, depth):
                assert parent != step[1]
                assert parents[str(step[1])] == parent
                assert 1 <= depth <= 16
            case RetryLater(seconds):
                assert 0 < seconds <= max(RULES.backoff_max, RULES.busy)
            case FetchUpstream():
                assert step[1] in talk.tree.leaders()


@given(st.lists(st.tuples(NAMES, st.sampled_from([0.1, 0.5, 1.0])), max_size=60))
def test_while_a_leader_gets_on_nobody_else_is_sent_upstream(
    steps: list[tuple[str, float]],
) -> None:
    """Every node that asks joins the leader's chain, as long as there is no complaint."""
    talk = Talk()
    talk.ask("leader")
    said = talk.now
    for number, (name, seconds) in enumerate(steps):
        talk.now += seconds
        if talk.now - said >= 1:
            said = talk.now
            talk.note("leader", Role.LEADER, number + 1)
        assert isinstance(talk.ask(name), FollowParent)
    assert talk.tree.leaders() == ["leader"]


@given(STEPS)
def test_a_second_is_sent_upstream_only_if_it_was_failed_by_the_first(
    steps: list[tuple[object, ...]],
) -> None:
    """While a leader makes progress, only a node with a complaint gets to lead.

    No two of them do within a second.
    """
    talk = Talk()
    talk.ask("leader")
    granted, complained, size = [talk.now], set[str](), 0
    for step in steps:
        if step[0] in ("lost", "note", "pass") and step != ("pass", 0.1):
            continue
        size += 1
        talk.now += 0.1
        talk.note("leader", Role.LEADER, size)
        if step[0] == "complain":
            complained.add(str(step[1]))
        if isinstance(take(talk, step), FetchUpstream):
            assert str(step[1]) in complained
            assert talk.now - granted[-1] >= RULES.backoff
            granted.append(talk.now)
