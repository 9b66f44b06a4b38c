"""Sizes given by manifests."""

from __future__ import annotations

import pytest

from spegel_py.mirror import content_sizes
from spegel_py.mirror.content_sizes import ContentSizes
from spegel_py.oci.digest import Digest
from tests.unit.mirror.test_pull import describing

DATA = [bytes([number]) * (number + 1) for number in range(4)]


def test_what_a_manifest_names_is_known() -> None:
    """The sizes of the layers and the config are known, and no others."""
    known = ContentSizes()
    known.record_manifest(describing(DATA[3]))
    assert known.of(Digest.of(DATA[3])) == 4
    assert known.of(Digest.of(DATA[2])) is None
    assert known.of(None) is None


def test_what_is_no_manifest_says_nothing() -> None:
    """A document of another kind is ignored."""
    known = ContentSizes()
    known.record_manifest(b"{}")
    assert repr(known) == "<ContentSizes of 0 contents>"


@pytest.mark.parametrize("odd", [b"null", b"-4", b"4.0", b'"4"'])
def test_an_odd_size_is_no_size(odd: bytes) -> None:
    """An invalid size is not taken for 0, which would refuse every peer with the content."""
    known = ContentSizes()
    config, layer = describing(DATA[3]).split(b'"layers"')
    known.record_manifest(config + b'"layers"' + layer.replace(b'"size": 4', b'"size": ' + odd))
    assert known.of(Digest.of(DATA[3])) is None
    assert repr(known) == "<ContentSizes of 1 contents>"


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of sizes is bounded."""
    monkeypatch.setattr(content_sizes, "MAX_CONTENTS", 3)
    known = ContentSizes()
    for data in DATA:
        known.record_manifest(describing(data))
    assert known.of(Digest.of(DATA[0])) is None
    assert [known.of(Digest.of(data)) for data in DATA[2:]] == [3, 4]


def test_manifests_that_differ_say_nothing() -> None:
    """Anybody can publish a manifest that gives another size to somebody else's content."""
    known, digest = ContentSizes(), Digest.of(DATA[3])
    known.record_manifest(describing(DATA[3]).replace(b'"size": 4', b'"size": 5'))
    assert known.of(digest) == 5
    known.record_manifest(describing(DATA[3]))
    assert known.of(digest) is None
    known.record_manifest(describing(DATA[3]))
    assert known.of(digest) is None
