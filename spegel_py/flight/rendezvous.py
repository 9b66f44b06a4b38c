"""Which node keeps the book of a digest: the top of a rendezvous hash, so that nobody has to be asked or elected. Pure.

When a node comes or goes, only the digests move of which it is the top (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

from spegel_py.oci.digest import Digest


def stewards(digest: Digest, members: Iterable[str], count: int) -> list[str]:
    """Return the first `count` of the members (peer ids) for this digest, whoever comes first first."""
    seeded = hashlib.blake2b(str(digest).encode(), digest_size=8)

    def weight(member: str) -> tuple[bytes, str]:
        hasher = seeded.copy()
        hasher.update(member.encode())
        return hasher.digest(), member

    return heapq.nlargest(count, members, key=weight)
