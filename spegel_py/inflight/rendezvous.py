"""The rank of nodes for a digest, by a rendezvous hash, so nobody asks for or elects a first one.

The first node coordinates the pulls of the digest; the first nodes keep an image. When a node joins
or leaves, only the digests move for which it is first (Thaler and Ravishankar, 1998). Pure.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from spegel_py.oci.digest import Digest


def ranked_nodes(digest: Digest, members: Iterable[str], count: int) -> list[str]:
    """Return the first `count` of the members (ids) for this digest, best first."""
    seeded = hashlib.blake2b(str(digest).encode(), digest_size=8)

    def weight(member: str) -> tuple[bytes, str]:
        hasher = seeded.copy()
        hasher.update(member.encode())
        return hasher.digest(), member

    return heapq.nlargest(count, members, key=weight)
