"""The picture of the mesh: the place of each peer, and the width of its line. Pure.

Peers are on a circle in the order of their places on the DHT's ring, clockwise from this node's own
place at the top. This node is in the middle, since it is connected with all peers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

RADIUS = 138.0
"""Radius of the circle, in units of the picture, which reaches from -158 to 158."""

HUB, DOT = 30.0, 13.0
"""Radius of this node, and the largest radius of a peer."""

LEAST = 8.0
"""Radius of a peer below which its number is omitted: from about 50 peers on."""

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """The place of one peer: its centre, and the line from this node to it.

    `flow` is the width of the line for the bytes that the peer sent, 0 for none.
    """

    x: float
    y: float
    x1: float
    y1: float
    x2: float
    y2: float
    radius: float
    flow: float

    @property
    def is_numbered(self) -> bool:
        return self.radius >= LEAST


def place(peer_id: str) -> int:
    """Return a peer's place on the DHT's ring: the SHA-256 of its id, decoded from base58."""
    try:
        number = 0
        for letter in peer_id:
            number = number * 58 + _ALPHABET.index(letter)
        zeros = len(peer_id) - len(peer_id.lstrip(_ALPHABET[0]))
        data = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    except ValueError:  # not an id of libp2p
        data = peer_id.encode()
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def clockwise(own: str, peers: Sequence[str]) -> list[str]:
    """Return the ids in their order on the ring, from this node's own place on."""
    start = place(own)
    return sorted(peers, key=lambda peer: (place(peer) - start) % (1 << 256))


def spots(given: Sequence[float]) -> list[Spot]:
    """Return the places of peers that sent `given` bytes each, in their order on the ring."""
    slots = len(given) + 1  # one slot is this node's own
    radius = min(DOT, 0.8 * math.pi * RADIUS / slots)
    most = max(given, default=0)
    return [
        _spot(2 * math.pi * number / slots, radius, _width(count, most))
        for number, count in enumerate(given, 1)
    ]


def _spot(angle: float, radius: float, flow: float) -> Spot:
    right, down = math.sin(angle), -math.cos(angle)
    begin, end = HUB, RADIUS - radius
    return Spot(
        x=round(RADIUS * right, 1),
        y=round(RADIUS * down, 1),
        x1=round(begin * right, 1),
        y1=round(begin * down, 1),
        x2=round(end * right, 1),
        y2=round(end * down, 1),
        radius=round(radius, 1),
        flow=flow,
    )


def _width(count: float, most: float) -> float:
    """Return a width up to 9. Its square grows with the count, so small counts stay visible."""
    return round(1.5 + 7.5 * math.sqrt(count / most), 1) if count > 0 else 0.0
