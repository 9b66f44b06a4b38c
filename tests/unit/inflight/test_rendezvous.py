"""The coordinator of a digest: all nodes agree, and few digests move when the members change."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from spegel_py.inflight.rendezvous import ranked_nodes
from spegel_py.oci.digest import Digest

DIGESTS = [Digest.of(str(number).encode()) for number in range(400)]
MEMBERS = st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=12)


@given(MEMBERS, st.sampled_from(DIGESTS), st.randoms())
def test_the_order_of_the_members_is_of_no_matter(
    members: set[str], digest: Digest, random: object
) -> None:
    """Nodes that list the same members in any order name the same coordinators."""
    there = ranked_nodes(digest, sorted(members), 3)
    assert there == ranked_nodes(digest, sorted(members, reverse=True), 3)
    assert len(there) == len(set(there)) == min(3, len(members))


@given(MEMBERS, st.sampled_from(DIGESTS))
def test_who_goes_is_followed_by_the_next(members: set[str], digest: Digest) -> None:
    """Without the first, the second is first."""
    ranked = ranked_nodes(digest, members, len(members))
    assert ranked_nodes(digest, members - {ranked[0]}, len(members)) == ranked[1:]


def test_digests_are_spread_over_the_members() -> None:
    """Of 400 digests each of eight members has its share."""
    shares = Counter(ranked_nodes(digest, "abcdefgh", 1)[0] for digest in DIGESTS)
    assert len(shares) == 8
    assert max(shares.values()) < 2 * min(shares.values())
