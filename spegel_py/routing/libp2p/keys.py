"""Keys of the DHT and their distances, as Spegel and go-libp2p compute them.

A name (a digest's text or `registry/repository:tag`) becomes the CIDv1(raw, sha2-256) of its text;
the record key on the wire is that CID's multihash. The announce protocol sends the 32 hash bytes
alone.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

HASH_SIZE = 32
MAX_POSITIONS = 4096
"""Positions that are remembered: those of the peers, and of the keys that were looked up last."""
_SHA2_256 = b"\x12\x20"
_Id = TypeVar("_Id", bound=bytes)


def name_hash(name: str) -> bytes:
    """Return the 32-byte hash of a name."""
    return hashlib.sha256(name.encode()).digest()


def record_key(key: bytes) -> bytes:
    """Return the multihash under which a name's hash is recorded in the DHT."""
    return _SHA2_256 + key


def from_record_key(record: bytes) -> bytes | None:
    """Return the hash in a sha2-256 multihash, None for other bytes."""
    if len(record) == len(_SHA2_256) + HASH_SIZE and record.startswith(_SHA2_256):
        return record[len(_SHA2_256) :]
    return None


@lru_cache(maxsize=MAX_POSITIONS)
def position(raw: bytes) -> int:
    """Return the position of a peer id or record key in the key space.

    It is the sha256 of the bytes (libp2p kad-dht spec). Each question about a place compares it
    with the positions of all peers.
    """
    return int.from_bytes(hashlib.sha256(raw).digest(), "big")


def closest(target: int, positions: Iterable[tuple[int, _Id]], count: int) -> list[_Id]:
    """Return the `count` ids whose positions are nearest to `target` by XOR, nearest first."""
    nearest = heapq.nsmallest(
        count, ((place ^ target, peer) for place, peer in positions), key=lambda item: item[0]
    )
    return [peer for _, peer in nearest]
