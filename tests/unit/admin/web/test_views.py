"""Which peers are shown, how they are, and what is under way."""

from __future__ import annotations

from typing import Any

import pytest

from spegel_py.admin.web import ring, views
from spegel_py.admin.web.traffic import PeerTraffic, TimeBin
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import ContentSource, PeerZone
from spegel_py.telemetry.pull_record import PullContext

DIGEST = "sha256:" + "a" * 64


def member(name: str, address: str = "10.0.0.1:5000", health: str = "healthy") -> dict[str, Any]:
    return {
        "id": name,
        "address": address,
        "agent": "spegel-py/1",
        "zone": "",
        "health": health,
        "keys": 3,
        "heard_seconds": None,
        "skew_seconds": None,
    }


def shown(members: list[dict[str, Any]], **given: Any) -> Any:
    return views.peers(members, **({"own": "me", "traffic": {}, "giving": {}} | given))


def test_peers_are_numbered_as_they_follow_on_the_ring() -> None:
    """Picture and table have the same order."""
    names = [f"peer {number}" for number in range(9)]
    found = shown([member(name) for name in names])
    assert [peer.id for peer in found] == ring.clockwise("me", names)
    assert [peer.number for peer in found] == list(range(1, 10))


def test_bytes_are_summed_by_zone() -> None:
    """If this node names its own zone."""
    members = [
        member(name) | {"zone": zone}
        for name, zone in zip("abcd", ["x", "x", "y", ""], strict=True)
    ]
    traffic = {name: PeerTraffic(bytes=10**n) for n, name in enumerate("abcd")}
    found = views.zone_bytes(members, own="x", traffic=traffic)
    assert found == {PeerZone.SAME: 11, PeerZone.OTHER: 100, PeerZone.UNKNOWN: 1000}
    assert views.zone_bytes(members, own="", traffic=traffic) == {}


def test_of_many_peers_those_are_shown_that_matter() -> None:
    """Who is not well, then who gave most."""
    members = [member(name) for name in "abcdef"]
    members[0]["health"], members[1]["health"] = "suspected", "unhealthy"
    traffic = {"e": PeerTraffic(bytes=10), "d": PeerTraffic(bytes=5), "a": PeerTraffic(bytes=1)}
    assert {peer.id for peer in shown(members, traffic=traffic, most=4)} == {"a", "b", "d", "e"}


def test_a_transfer_is_shown_at_its_peer_where_the_address_is_one_peers() -> None:
    """Of two on one machine nobody can tell which gets it; IPv4 addresses may be written as IPv6
    ones.
    """
    members = [
        member("a", "10.0.0.1:5000"),
        member("b", "10.0.0.2:5000"),
        member("c", "10.0.0.2:5001"),
        member("d", "[fd00::4]:5000"),
    ]
    giving = views.addresses({"::ffff:10.0.0.1": 2, "10.0.0.2": 1, "fd00::4": 3})
    assert {peer.id: peer.giving for peer in shown(members, giving=giving)} == {
        "a": 2,
        "b": 0,
        "c": 0,
        "d": 3,
    }


def test_a_peer_without_an_address_is_shown_all_the_same() -> None:
    """It has not said yet where its registry is."""
    [peer] = shown([member("a", "")])
    assert (peer.address, peer.giving) == ("not known yet", 0)


@pytest.mark.parametrize("mirrored", [False, True], ids=["a client's", "a peer's"])
def test_a_request_under_way_says_how_far_it_is(mirrored: bool) -> None:
    """Bytes, rate, and whom they come from by the address."""
    headers = [("X-Spegel-Mirrored", "true")] if mirrored else []
    asked = PullRequest.parse(
        method="GET", target=f"/v2/app/blobs/{DIGEST}?ns=r.io", headers=headers
    )
    context = PullContext(
        pull=asked, at=100.0, source=ContentSource.PEER, length=1000, peer="p", progress=lambda: 400
    )
    [pull] = views.pulls([context], addresses={"p": "10.0.0.2:5000"}, now=102.0)
    assert (pull.name, pull.digest, pull.kind) == ("r.io/app", DIGEST, "blob")
    assert (pull.sent, pull.length, pull.rate, pull.peer) == (400, 1000, 200.0, "10.0.0.2:5000")
    assert pull.to_peer is mirrored


def test_a_request_that_has_no_answer_yet_is_shown_too() -> None:
    """Nothing is known of it but what was asked for."""
    asked = PullRequest.parse(method="GET", target="/v2/app/manifests/1?ns=r.io")
    [pull] = views.pulls([PullContext(pull=asked, at=100.0)], addresses={}, now=100.1)
    assert (pull.name, pull.digest, pull.source, pull.rate, pull.length) == (
        "r.io/app:1",
        "",
        None,
        0.0,
        0,
    )


def test_bins_are_summed_up_by_the_minute() -> None:
    """The latest first, and all of them as one."""
    bins = [TimeBin(10.0 * number) for number in range(12)]
    for number, one in enumerate(bins):
        one.bytes[ContentSource.PEER] = number
        one.requests[ContentSource.NONE] = 1
    latest, earliest = views.minutes(bins, each=6)
    assert (
        latest.begin,
        latest.bytes[ContentSource.PEER],
        latest.requests[ContentSource.NONE],
    ) == (
        60.0,
        sum(range(6, 12)),
        6,
    )
    assert (earliest.begin, earliest.bytes[ContentSource.PEER]) == (0.0, sum(range(6)))
    assert (
        views.total(bins).bytes[ContentSource.PEER],
        views.total(bins).requests[ContentSource.NONE],
    ) == (66, 12)
