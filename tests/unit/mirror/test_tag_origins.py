"""Where a tag came from, and when this node is a witness of it."""

from __future__ import annotations

import json

import pytest

from spegel_py.mirror.tag_origins import LONGEST_PULL, OVERLAP, TagOrigin, TagOrigins
from spegel_py.oci.digest import Digest
from tests.unit.mirror.tag_words import NAME, NEW, OLD, Observer


def origins(*, answered: float | None = None, miss: float | None = None) -> TagOrigins:
    made = TagOrigins()
    if answered is not None:
        made.record(NAME, TagOrigin(digest=OLD, seen=0, answered=answered, peer="peer"))
    if miss is not None:
        made.record_miss(NAME, miss)
    return made


@pytest.mark.parametrize(
    ("answered", "miss", "digest", "pulled", "is_witness"),
    [
        (None, None, OLD, 100, False),
        (None, 90, OLD, 100, True),
        (None, 110, OLD, 100, False),
        (None, 0, OLD, LONGEST_PULL + 1, False),
        (50, None, OLD, 100, False),
        (50, 90, OLD, 100, False),
        (50, 90, NEW, 100, True),
        (50, 51 + OVERLAP, OLD, 60 + OVERLAP, True),
    ],
    ids=[
        "never asked for",
        "404, then pulled",
        "pulled before",
        "pulled long after",
        "from a peer",
        "404 while the peer's may be on its way",
        "another digest than the peer's",
        "404 long after the peer's",
    ],
)
def test_a_node_is_a_witness_after_its_own_404_only(
    answered: float | None, miss: float | None, digest: Digest, pulled: float, is_witness: bool
) -> None:
    looked = origins(answered=answered, miss=miss).looked(NAME, digest, pulled)
    assert looked == (miss if is_witness else None)


def test_an_answer_after_the_404_takes_the_pull() -> None:
    found = origins(miss=90)
    found.record(NAME, TagOrigin(digest=OLD, seen=0, answered=95, peer="peer"))
    assert found.looked(NAME, OLD, 100) is None


def test_an_origin_is_that_of_one_digest_in_any_spelling() -> None:
    found = TagOrigins()
    found.record("docker.io/library/app:1", TagOrigin(digest=OLD, seen=0, answered=0, peer="p"))
    assert found.of("docker.io/app:1", OLD) is not None
    assert found.of("docker.io/app:1", NEW) is None


def test_origins_outlive_a_restart() -> None:
    before, after = TagOrigins(), TagOrigins()
    observation = Observer().saw(OLD, 1_700_000_000)
    origin = TagOrigin(digest=OLD, seen=5.0, answered=6.0, observation=observation, peer="peer")
    before.record(NAME, origin)
    for entry in json.loads(json.dumps(list(before.written()))):
        after.record(*TagOrigins.read(entry))
    assert after.of(NAME, OLD) == origin


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": 1},
        {"name": "a/b:1", "digest": "x", "observation": "", "peer": "", "seen": 1, "answered": 1},
        {
            "name": "a/b:1",
            "digest": str(OLD),
            "observation": "x",
            "peer": "",
            "seen": 1,
            "answered": 1,
        },
    ],
)
def test_no_other_entry_is_restored(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        TagOrigins.read(entry)
