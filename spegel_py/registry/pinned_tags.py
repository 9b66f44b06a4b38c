"""The digest of a tag for the two requests of one pull: a HEAD, and the GET that follows it.

Two peers may hold different digests of a tag that has moved. A client that gets one of them by HEAD
and the other by GET reports a broken registry. Pure: times are monotonic seconds, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import PullRequest
from spegel_py.tools.bounded import BoundedDict

WINDOW = 5.0
"""Seconds after a HEAD in which a GET belongs to the same pull. Clients send it at once."""

MAX_PINNED = 4096
"""Tags of clients that are remembered, the last ones."""


@dataclass(frozen=True, slots=True)
class PinnedTag:
    """The answer to a HEAD: the tag's digest, its `Age` header if it had one, and until when."""

    digest: Digest
    age: str | None
    until: float


class PinnedTags:
    """Remembers for each client which digest a HEAD of a tag was answered with."""

    def __init__(self) -> None:
        self._known: BoundedDict[tuple[str, str], PinnedTag] = BoundedDict(limit=MAX_PINNED)

    def __repr__(self) -> str:
        return f"<PinnedTags {len(self._known)}>"

    def record(
        self, client: str, pull: PullRequest, digest: Digest | None, age: str | None, now: float
    ) -> None:
        """Record the digest of an answer, if the request was a client's HEAD of a tag."""
        if pull.name is not None and pull.head and not pull.mirrored and digest is not None:
            self._known[client, pull.name] = PinnedTag(digest, age, now + WINDOW)

    def pin(
        self, client: str, pull: PullRequest, now: float
    ) -> tuple[PullRequest, PinnedTag | None]:
        """Return the request for the digest that the client's HEAD was answered with just now.

        Any other request is returned unchanged, and without a pinned tag.
        """
        if pull.name is None or pull.head or pull.mirrored:
            return pull, None
        found = self._known.get((client, pull.name))
        if found is None or now >= found.until:
            return pull, None
        return replace(pull, reference=found.digest), found
