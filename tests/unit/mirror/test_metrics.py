"""The metrics of each peer: few labels, and none for a peer that is gone."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from spegel_py.mirror.metrics import FAILURES, KEPT, MAX_PEERS, PeerMetrics
from spegel_py.outcomes import AttemptOutcome


class Peers:
    """Metrics with the test's own clock."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.now = 0.0
        self.metrics = PeerMetrics(self.registry, clock=lambda: self.now)

    def ask(
        self, number: int, outcome: AttemptOutcome = AttemptOutcome.OK, *, identity: str = ""
    ) -> None:
        """Count a request to one peer that took 0.25 s to answer and gave 100 bytes."""
        self.metrics.attempted(
            peer_id=identity or f"id-{number}",
            address=f"10.0.0.{number}:5000",
            outcome=outcome,
            first_byte=0.25,
            count=100,
        )

    def labels(self) -> set[str]:
        """Return the peers that have a series of any meter."""
        return {
            sample.labels["peer"]
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def test_a_peer_is_counted_by_outcome_latency_and_bytes() -> None:
    """Requests are counted with their latency and bytes.

    A request without an answer has no latency.
    """
    peers = Peers()
    peers.ask(1)
    peers.metrics.attempted(
        peer_id="id-1",
        address="10.0.0.1:5000",
        outcome=AttemptOutcome.UNREACHABLE,
        first_byte=None,
        count=0,
    )
    one = "10.0.0.1:5000"
    assert peers.value("spegel_peer_requests_total", peer=one, outcome="ok") == 1
    assert peers.value("spegel_peer_requests_total", peer=one, outcome="unreachable") == 1
    assert peers.value("spegel_peer_first_byte_seconds_count", peer=one) == 1
    assert peers.value("spegel_peer_first_byte_seconds_sum", peer=one) == 0.25
    assert peers.value("spegel_peer_received_bytes_total", peer=one) == 100


def test_a_failure_is_seen_as_an_increase() -> None:
    """Each kind of failure is shown as 0 before its first occurrence.

    These kinds are the ones that count against a peer.
    """
    peers = Peers()
    peers.ask(1)
    assert set(FAILURES) == {result.value for result in AttemptOutcome if result.is_failure}
    assert [
        peers.value("spegel_peer_requests_total", peer="10.0.0.1:5000", outcome=each)
        for each in FAILURES
    ] == [0] * len(FAILURES)


def test_a_crowd_of_peers_shares_one_label() -> None:
    """The first MAX_PEERS peers have their own label, all further peers share one."""
    peers = Peers()
    for number in range(MAX_PEERS + 3):
        peers.ask(number)
    assert len(peers.labels()) == MAX_PEERS + 1
    assert peers.value("spegel_peer_requests_total", peer="other", outcome="ok") == 3


def test_a_peer_that_is_gone_takes_its_series_away() -> None:
    """A peer's series stays until a scrape has seen its end.

    Then its place is free for another peer.
    """
    peers = Peers()
    for number in range(MAX_PEERS):
        peers.ask(number)
    peers.ask(0, AttemptOutcome.STALLED)
    connected = [f"id-{number}" for number in range(1, MAX_PEERS)]
    peers.metrics.forget(but=connected)
    assert "10.0.0.0:5000" in peers.labels()
    peers.now = KEPT
    peers.metrics.forget(but=connected)
    assert "10.0.0.0:5000" not in peers.labels()
    assert len(peers.labels()) == MAX_PEERS - 1
    peers.ask(200)
    assert "10.0.0.200:5000" in peers.labels()


def test_a_peer_that_is_back_under_another_identity_keeps_its_series() -> None:
    """A node without a data directory comes back with a new identity at the same address."""
    peers = Peers()
    peers.ask(1)
    peers.ask(1, identity="new")
    peers.now = KEPT
    peers.metrics.forget(but=["new"])
    assert peers.value("spegel_peer_requests_total", peer="10.0.0.1:5000", outcome="ok") == 2
