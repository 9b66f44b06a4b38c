"""What is made of what is seen: peers that go, clocks that jump, pulls that fail, disks that
fill.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from spegel_py.routing.base import Life
from spegel_py.supervision.conditions import Observation
from spegel_py.supervision.history import check_disk, fault_of
from spegel_py.supervision.isolation import KNOWN_FOR, Isolation, PeerTracker
from spegel_py.supervision.observer import (
    MAX_LOST,
    MAX_SUBJECTS,
    WINDOW,
    ClockMonitor,
    NodeSignals,
    Observer,
    PullFailures,
)


def peers(*looks: tuple[float, str] | tuple[float, str, str]) -> PeerTracker:
    """Return a census after looks at (time, connected peers, goodbyes); each peer is one letter."""
    made = PeerTracker()
    for now, connected, *goodbyes in looks:
        made.update(connected=connected, goodbyes="".join(goodbyes), now=now)
    return made


def test_half_of_the_peers_gone_is_a_partition() -> None:
    """It counts from when so many were gone that it is one."""
    made = peers((0, "abcdef"), (10, "abcdef"), (11, "abcde"), (12, "abc"))
    assert made.partitioned_since() == 11
    assert made.lost() == {"f": 10, "d": 11, "e": 11}
    assert not made.has_lost_all


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(0, "abc"), (1, "ab")], id="one peer died"),
        pytest.param([(0, "abcdefghi"), (1, "abcdefg")], id="two of nine"),
        pytest.param([(0, "abcd"), (1, "ab", "cd")], id="they said goodbye"),
        pytest.param([(0, "abcd"), (1, "ab"), (2, "abcd")], id="they are back"),
        pytest.param([(0, "abcd"), (1, "ab"), (1 + KNOWN_FOR, "ab")], id="it is long ago"),
        pytest.param([(0, "")], id="nobody was ever there"),
    ],
)
def test_what_is_no_partition(looks: list[tuple[float, str]]) -> None:
    """A death, a goodbye, a return, and what is long past are none."""
    assert peers(*looks).partitioned_since() is None


def test_who_is_back_after_a_goodbye_counts_again() -> None:
    """A goodbye that is remembered beside a connected peer changes nothing."""
    assert peers((0, "ab"), (1, "a", "b"), (2, "ab", "b"), (3, "a")).lost() == {"b": 2}


def test_all_peers_lost_is_remembered_until_one_is_back() -> None:
    """Also when they are no longer expected."""
    assert peers((0, "ab"), (1, ""), (2 * KNOWN_FOR, "")).has_lost_all
    assert not peers((0, "ab"), (1, ""), (2, "a")).has_lost_all
    assert not peers((0, "ab"), (1, "", "ab")).has_lost_all


def test_a_peer_that_dies_soon_after_the_start_is_lost_once_peers_count() -> None:
    """Nobody is lost before: after a new start of the libp2p side all peers connect anew."""
    made = PeerTracker()
    made.meet("ab", now=1)
    made.meet("a", now=2)
    assert made.lost() == {}
    made.update(connected="a", goodbyes="", now=10)
    assert made.lost() == {"b": 1}
    assert peers((0, "ab"), (1, "a", "b")).lost() == {}


def test_a_new_start_of_the_libp2p_side_loses_nobody_at_first() -> None:
    made = peers((0, "ab"), (1, "ab"))
    made.meet("", now=2)
    made.meet("a", now=3)
    assert (made.lost(), made.has_lost_all) == ({}, False)
    made.update(connected="ab", goodbyes="", now=12)
    assert made.lost() == {}


def test_a_clock_that_is_set_is_seen_once() -> None:
    """A jump forward or back is told at the next look; drifting is none."""
    clock = ClockMonitor(wall=1000.0, monotonic=0.0)
    assert clock.jumped(wall=1001.1, monotonic=1.0) is None
    assert clock.jumped(wall=4602.1, monotonic=2.0) == pytest.approx(3600.0)
    assert clock.jumped(wall=4603.1, monotonic=3.0) is None
    assert clock.jumped(wall=3.1, monotonic=4.0) == pytest.approx(-4601.0)


@pytest.mark.parametrize(
    ("outcomes", "is_failing"),
    [
        ({"hit": 5, "cut": 5}, True),
        ({"error": 5}, True),
        ({"hit": 100, "cut": 20}, False),
        ({"cut": 4}, False),
        ({"not_found": 100, "failed": 50}, False),
    ],
    ids=["half cut", "errors", "one in six", "too few to say", "upstream is next"],
)
def test_when_pulls_are_failing(outcomes: dict[str, int], *, is_failing: bool) -> None:
    """Half of all answers cut or errors is failing; misses are not, since the runtime goes
    upstream.
    """
    pulls = PullFailures()
    assert pulls.failing({}, 0.0) is None
    assert (pulls.failing(outcomes, 1.0) is not None) == is_failing


def test_failing_pulls_are_forgotten() -> None:
    """When the window has passed, what was counted before it says nothing."""
    pulls = PullFailures()
    pulls.failing({}, 0.0)
    assert pulls.failing({"cut": 9}, 1.0) == "9 of 9 answers in 30 s were cut short or errors"
    assert pulls.failing({"cut": 9}, 1.0 + WINDOW) is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "disk-full"),
        (errno.EROFS, "data-dir-read-only"),
        (errno.EACCES, "data-dir-read-only"),
    ],
    ids=errno.errorcode.get,
)
def test_what_a_failed_write_means(number: int, expected: str) -> None:
    """No space and no quota is full; everything else is not writable."""
    assert fault_of(OSError(number, "why"), Path("/d")).condition.name == expected


def test_a_healthy_or_absent_folder_is_no_fault(tmp_path: Path) -> None:
    """A folder that can be written is fine, and one that is not there is not judged."""
    assert check_disk(tmp_path / "absent", is_written=True) is None
    fault = check_disk(tmp_path, is_written=True)
    assert fault is None or fault.condition.name == "disk-full"  # of the machine that this runs on


@dataclass
class Figures:
    """What statvfs says of a file system of 1 GB or more."""

    f_bavail: int = 200_000
    f_blocks: int = 250_000
    f_frsize: int = 4096
    f_flag: int = 0


@pytest.mark.parametrize(
    ("figures", "is_written", "expected"),
    [
        (Figures(), True, None),
        (Figures(f_flag=os.ST_RDONLY), True, "data-dir-read-only"),
        (Figures(f_flag=os.ST_RDONLY), False, None),
        (Figures(f_bavail=1000), False, "disk-full"),
        (Figures(f_bavail=5000), True, None),
        (Figures(f_bavail=20_000, f_blocks=10_000_000), True, None),
    ],
    ids=[
        "healthy",
        "read-only",
        "only read",
        "full",
        "two percent are free",
        "80 MB of 40 GB are free",
    ],
)
def test_what_a_file_system_says_of_itself(
    figures: Figures, expected: str | None, monkeypatch: pytest.MonkeyPatch, *, is_written: bool
) -> None:
    """It is full below 64 MiB and 1 %; being read-only matters only where this node writes."""
    monkeypatch.setattr(os, "statvfs", lambda _: figures)
    fault = check_disk(Path("/d"), is_written=is_written)
    assert (fault.condition.name if fault else None) == expected


class Seen:
    """A watch whose senses a test sets."""

    def __init__(self) -> None:
        self.life = Life(number=1, is_up=True, since=0.0)
        self.away: float | None = None
        self.unhealthy: dict[str, str] = {}
        self.twins: dict[str, str] = {}
        self.peers = PeerTracker()
        self.observer = Observer(
            signals=NodeSignals(
                connected=tuple,
                goodbyes=tuple,
                expects_peers=lambda: True,
                life=lambda: self.life,
                ping=_pong,
                containerd_away=lambda: self.away,
                unhealthy=lambda: self.unhealthy,
                twins=lambda: self.twins,
            ),
            isolation=Isolation(warn=60, critical=300, now=0.0),
            peers=self.peers,
            wall=1000.0,
            now=0.0,
        )

    def look(
        self, now: float, *, hung_since: float | None = None, stalled_since: float | None = None
    ) -> list[Observation]:
        return [
            one
            for one in self.observer.observe(
                now=now,
                wall=1000.0 + now,
                hung_since=hung_since,
                stalled_since=stalled_since,
                faults=(),
            )
            if one.condition.name != "isolated"
        ]


async def _pong() -> None:
    return None


def named(observations: list[Observation]) -> list[tuple[str, str, float]]:
    return [(one.condition.name, one.subject, one.since) for one in observations]


def test_a_death_is_seen_though_the_next_life_is_up_already() -> None:
    """A libp2p side that died and came up between two looks is seen once; one that is down, all the
    while.
    """
    seen = Seen()
    assert named(seen.look(1.0)) == []
    seen.life = Life(number=2, is_up=True, since=1.8, died=1.2, cause="x")
    assert named(seen.look(2.0)) == [("router-down", "", 1.2)]
    assert named(seen.look(3.0)) == []
    seen.life = Life(number=2, is_up=False, since=3.5, died=3.5)
    assert [named(seen.look(now)) for now in (4.0, 5.0)] == [[("router-down", "", 3.5)]] * 2


def test_a_hung_side_that_is_restarted_is_one_condition() -> None:
    """Its end on purpose is no death beside it."""
    seen = Seen()
    assert named(seen.look(1.0, hung_since=0.5)) == [("router-hung", "", 0.5)]
    seen.life = Life(number=1, is_up=False, since=1.5, died=1.5)
    assert named(seen.look(2.0, hung_since=0.5)) == [("router-hung", "", 0.5)]
    seen.life = Life(number=2, is_up=True, since=2.5, died=1.5)
    assert named(seen.look(3.0, hung_since=0.5)) == [("router-hung", "", 0.5)]
    assert named(seen.look(4.0)) == []


def test_nodes_that_share_an_identity_are_an_alert() -> None:
    """It says where the other one is."""
    seen = Seen()
    seen.twins = {"/ip4/10.0.0.2/tcp/5001": "it answers with the identity of this node"}
    [one] = seen.look(1.0)
    assert (one.condition.name, one.subject, one.source) == (
        "identity-shared",
        *seen.twins,
        "router",
    )
    assert one.detail == "it answers with the identity of this node"


def test_what_has_no_beginning_counts_from_when_it_was_first_seen() -> None:
    """Each peer that others judge is dated by itself, and anew when it is back."""
    seen = Seen()
    seen.unhealthy = {"a": "why"}
    assert named(seen.look(1.0)) == [("peer-unhealthy", "a", 1.0)]
    seen.unhealthy = {"a": "why", "b": "why"}
    assert named(seen.look(2.0)) == [("peer-unhealthy", "a", 1.0), ("peer-unhealthy", "b", 2.0)]
    seen.unhealthy = {}
    seen.look(3.0)
    seen.unhealthy = {"a": "why"}
    assert named(seen.look(4.0)) == [("peer-unhealthy", "a", 4.0)]


def test_peers_with_alerts_of_their_own_are_few() -> None:
    """Hundreds of lost or judged peers are a bounded number of observations."""
    seen = Seen()
    seen.peers.update(connected=[str(number) for number in range(500)], goodbyes=(), now=0.0)
    seen.peers.update(connected=(), goodbyes=(), now=1.0)
    seen.unhealthy = {str(number): "" for number in range(500)}
    names = [name for name, _, _ in named(seen.look(1.0))]
    assert (names.count("peer-lost"), names.count("peer-unhealthy")) == (MAX_LOST, MAX_SUBJECTS)
    assert names.count("partitioned") == 1


def test_the_rest_is_passed_on() -> None:
    """A daemon that is away and a loop that stood still are seen since when they were."""
    seen = Seen()
    seen.away = 0.5
    assert named(seen.look(1.0, stalled_since=0.2)) == [
        ("event-loop-stalled", "", 0.2),
        ("containerd-away", "", 0.5),
    ]
