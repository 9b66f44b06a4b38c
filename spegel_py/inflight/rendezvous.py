"""The coordinator of a digest is the top of a rendezvous hash, so nobody asks for or elects one.

When a node joins or leaves, only the digests move that it coordinates (Thaler and Ravishankar,
1998). Pure.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from spegel_py.oci.digest import Digest


def ranked_coordinators(digest: Digest, members: Iterable[str], count: int) -> list[str]:
    """Return the first `count` coordinators of this digest among the members (ids), best first."""
    seeded = hashlib.blake2b(str(digest).encode(), digest_size=8)

    def weight(member: str) -> tuple[bytes, str]:
        hasher = seeded.copy()
        hasher.update(member.encode())
        return hasher.digest(), member

    return heapq.nlargest(count, members, key=weight)
