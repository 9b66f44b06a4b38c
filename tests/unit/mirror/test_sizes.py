"""Sizes that manifests name."""

from __future__ import annotations

import pytest

from spegel_py.mirror import sizes
from spegel_py.mirror.sizes import Sizes
from spegel_py.oci.digest import Digest
from tests.unit.mirror.test_fetch import describing

DATA = [bytes([number]) * (number + 1) for number in range(4)]


def test_what_a_manifest_names_is_known() -> None:
    """Layers and the config, and nothing else."""
    known = Sizes()
    known.learn(describing(DATA[3]))
    assert known.of(Digest.of(DATA[3])) == 4
    assert known.of(Digest.of(DATA[2])) is None
    assert known.of(None) is None


def test_what_is_no_manifest_says_nothing() -> None:
    """A document of another kind is passed over."""
    known = Sizes()
    known.learn(b"{}")
    assert repr(known) == "<Sizes of 0 contents>"


@pytest.mark.parametrize("odd", [b"null", b"-4", b"4.0", b'"4"'])
def test_an_odd_size_is_no_size(odd: bytes) -> None:
    """It is not taken for 0, by which every peer with the content would be refused."""
    known = Sizes()
    config, layer = describing(DATA[3]).split(b'"layers"')
    known.learn(config + b'"layers"' + layer.replace(b'"size": 4', b'"size": ' + odd))
    assert known.of(Digest.of(DATA[3])) is None
    assert repr(known) == "<Sizes of 1 contents>"


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow for ever."""
    monkeypatch.setattr(sizes, "REMEMBERED", 3)
    known = Sizes()
    for data in DATA:
        known.learn(describing(data))
    assert known.of(Digest.of(DATA[0])) is None
    assert [known.of(Digest.of(data)) for data in DATA[2:]] == [3, 4]


def test_manifests_that_differ_say_nothing() -> None:
    """Anybody can have a manifest passed on that names the content of others, with a size of his own."""
    known, digest = Sizes(), Digest.of(DATA[3])
    known.learn(describing(DATA[3]).replace(b'"size": 4', b'"size": 5'))
    assert known.of(digest) == 5
    known.learn(describing(DATA[3]))
    assert known.of(digest) is None
    known.learn(describing(DATA[3]))
    assert known.of(digest) is None
