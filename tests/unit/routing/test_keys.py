"""Keys and distances as Spegel and go-libp2p compute them."""

from __future__ import annotations

import hashlib

from cid import make_cid

from spegel_py.routing.libp2p.keys import closest, from_record_key, name_hash, position, record_key

NAME = "docker.io/library/alpine:3"


def test_record_key_is_the_multihash_of_the_cid_that_spegel_makes() -> None:
    """A name's record key is the multihash of CIDv1(raw, sha2-256(name))."""
    digest = hashlib.sha256(NAME.encode()).digest()
    made = make_cid(1, "raw", b"\x12\x20" + digest)
    assert record_key(name_hash(NAME)) == made.multihash


def test_a_record_key_gives_back_the_hash() -> None:
    """from_record_key is the inverse of record_key."""
    assert from_record_key(record_key(name_hash(NAME))) == name_hash(NAME)


def test_other_multihashes_are_no_keys_of_ours() -> None:
    """A multihash of another function or length is refused, not misread."""
    assert from_record_key(b"\x11\x14" + bytes(20)) is None
    assert from_record_key(b"\x12\x20" + bytes(31)) is None
    assert from_record_key(b"") is None


def test_closest_orders_by_xor_distance() -> None:
    """The nearest positions come first, and no more than asked for."""
    places = [(0b1000, b"a"), (0b0001, b"b"), (0b0011, b"c"), (0b1111, b"d")]
    assert closest(0b0000, places, 3) == [b"b", b"c", b"a"]
    assert closest(0b1110, places, 1) == [b"d"]


def test_position_is_the_hash_of_the_raw_bytes() -> None:
    """libp2p's kad-dht places a key at the sha256 of its bytes."""
    assert position(b"x") == int.from_bytes(hashlib.sha256(b"x").digest(), "big")
