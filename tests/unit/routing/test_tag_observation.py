"""Observations of tags: signed by their observer, and bound to one tag and one digest."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from spegel_py.oci.digest import Digest
from spegel_py.routing.libp2p.identity import peer_name, public_key
from spegel_py.routing.tag_observation import MAX_HEADER, ObservationInvalid, TagObservation

NAME = "registry.example/app:1"
DIGEST, OTHER = Digest.of(b"app"), Digest.of(b"other")
KEY = Ed25519PrivateKey.generate()
OWN = peer_name(KEY)


def observed(name: str = NAME, digest: Digest = DIGEST, seen: int = 1_700_000_000) -> str:
    made = TagObservation.made(name, digest, seen=seen, observer=OWN, sign=KEY.sign)
    return made.header


def test_an_observation_is_read_as_it_was_made() -> None:
    header = observed()
    read = TagObservation.parse(header, name=NAME, digest=DIGEST)
    assert (read.observer, read.seen, read.header) == (OWN, 1_700_000_000, header)
    assert len(header) <= 160 < MAX_HEADER


def test_a_peer_id_is_its_key() -> None:
    assert public_key(OWN).public_bytes_raw() == KEY.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    "peer_id",
    ["", "1", "me", "Qm" + "a" * 44, OWN + "1", "1" + OWN, OWN[:-1], "z" * 5000, "0OIl"],
    ids=range(9),
)
def test_no_other_text_is_a_key(peer_id: str) -> None:
    with pytest.raises(ValueError, match=r"peer id|substring"):
        public_key(peer_id)


def _with(place: int, text: str) -> str:
    parts = observed().split(";")
    parts[place] = text
    return ";".join(parts)


FORGED = {
    "younger": _with(1, "1700000001"),
    "of another observer": _with(2, peer_name(Ed25519PrivateKey.generate())),
    "no peer id": _with(2, "me"),
    "another signature": _with(3, "A" * 86),
    "a short signature": _with(3, "AAAA"),
    "no base64": _with(3, "!" * 86),
    "padded": observed() + "==",
    "another version": _with(0, "2"),
    "a time with a sign": _with(1, "+1700000000"),
    "a time with a zero": _with(1, "01700000000"),
    "no time": _with(1, ""),
    "a field more": observed() + ";",
    "nothing": "",
    "too long": _with(2, "1" * 1000),
    "no ASCII": _with(1, "१७००"),
}


@pytest.mark.parametrize("header", FORGED.values(), ids=FORGED)
def test_a_forged_observation_is_refused(header: str) -> None:
    with pytest.raises(ObservationInvalid):
        TagObservation.parse(header, name=NAME, digest=DIGEST)


@given(st.text(max_size=400) | st.lists(st.text(max_size=90), max_size=5).map(";".join))
def test_no_text_is_worse_than_refused(header: str) -> None:
    with pytest.raises(ObservationInvalid):
        TagObservation.parse(header, name=NAME, digest=DIGEST)


@pytest.mark.parametrize(
    ("name", "digest"), [("registry.example/app:2", DIGEST), (NAME, OTHER)], ids=["tag", "digest"]
)
def test_an_observation_is_not_that_of_another(name: str, digest: Digest) -> None:
    with pytest.raises(ObservationInvalid):
        TagObservation.parse(observed(), name=name, digest=digest)
