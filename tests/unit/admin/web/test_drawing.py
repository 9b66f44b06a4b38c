"""The picture of the mesh and the bars of the plots, as numbers."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import pytest

from spegel_py.admin.web import plots, ring
from spegel_py.admin.web.traffic import TimeBin
from spegel_py.outcomes import ContentSource

PEER = "12D3KooWMVv1VGPM1VmgXYmZJ1c5MEHwddDt2VKDkL1qMtGxYH33"


def test_a_peer_stands_at_its_place_on_the_dhts_ring() -> None:
    """Which is the SHA-256 of the id's bytes: an Ed25519 key's begin with 00 24 08 01 12 20."""
    number = 0
    for letter in PEER:
        number = number * 58 + "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz".index(
            letter
        )
    data = number.to_bytes(38, "big")
    assert data[:6].hex() == "002408011220"
    assert ring.place(PEER) == int.from_bytes(hashlib.sha256(data).digest(), "big")


def test_peers_follow_each_other_from_this_nodes_own_place_on() -> None:
    """All of them, once round."""
    names = [f"peer {number}" for number in range(20)]
    order = ring.clockwise("me", names)
    ways = [(ring.place(name) - ring.place("me")) % (1 << 256) for name in order]
    assert sorted(order) == sorted(names)
    assert ways == sorted(ways)


@pytest.mark.parametrize("count", [1, 10, 60, 300])
def test_no_peer_covers_another_or_this_node(count: int) -> None:
    """However many there are, they stand apart on the circle; from some number on they are not
    numbered.
    """
    spots = ring.spots([1.0] * count)
    for one, other in pairwise(spots):
        assert math.dist((one.x, one.y), (other.x, other.y)) > one.radius + other.radius
    for spot in spots:
        assert math.hypot(spot.x, spot.y) == pytest.approx(ring.RADIUS, abs=0.2)
        assert math.hypot(spot.x2, spot.y2) > math.hypot(spot.x1, spot.y1)
    assert all(spot.is_numbered for spot in spots) == (count < 50)


def test_a_line_is_the_thicker_the_more_its_peer_gave() -> None:
    """Who gave nothing has none, the most is 9 wide, and a hundredth of it is seen still."""
    flows = [spot.flow for spot in ring.spots([0, 1, 10, 100])]
    assert flows[0] == 0
    assert flows == sorted(flows)
    assert flows[1] >= 2
    assert flows[3] == 9


def bin_of(begin: float, **requests: int) -> TimeBin:
    one = TimeBin(begin)
    one.requests |= {ContentSource(source): count for source, count in requests.items()}
    return one


def test_throughput_is_stacked_below_a_round_value() -> None:
    """30 + 40 bytes a second of at most 100 take 70 of 100; the scale does not follow every
    byte.
    """
    one = TimeBin(0.0)
    one.bytes |= {ContentSource.LOCAL: 300_000.0, ContentSource.PEER: 400_000.0}
    plot = plots.throughput([one], width=10.0)
    assert plot.top == 100_000
    assert [(bar.source, bar.y, bar.height) for bar in plot.bars] == [
        ("local", 70, 30),
        ("peer", 30, 40),
    ]
    assert plot.paths == {"local": "M0.08 70h0.84v30h-0.84z", "peer": "M0.08 30h0.84v40h-0.84z"}


def test_nothing_is_drawn_of_nothing() -> None:
    """The scale is not zero for it."""
    plot = plots.throughput([TimeBin(0.0), TimeBin(10.0)], width=10.0)
    assert (plot.bars, plot.top, plot.count) == ((), 1000, 2)
    assert plots.hit_rates([TimeBin(0.0)]).bars == ()


def test_a_hit_rate_fills_its_bar_with_shares() -> None:
    """Also where one request was left to the registry."""
    plot = plots.hit_rates([bin_of(0.0, local=1, peer=2, none=1)])
    assert [(bar.source, bar.y, bar.height) for bar in plot.bars] == [
        ("local", 75, 25),
        ("peer", 25, 50),
        ("none", 0, 25),
    ]


def test_little_is_seen_beside_much() -> None:
    """One byte a second beside a hundred million is one of a hundred high."""
    little, much = TimeBin(0.0), TimeBin(10.0)
    little.bytes[ContentSource.LOCAL], much.bytes[ContentSource.PEER] = 10.0, 1e9
    assert [bar.height for bar in plots.throughput([little, much], width=10.0).bars] == [1, 100]
