"""Where the tags of this node came from: its own look at their registry, or a peer. Pure.

The runtime pulls a tag from the registry after this node gave it a 404, and from a peer after this
node passed on a peer's answer. Only after a 404 is this node a witness of the tag. Of a tag that it
never answered, such as an imported one, it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from spegel_py.errors import DigestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import canonical_name
from spegel_py.routing.tag_observation import ObservationInvalid, TagObservation
from spegel_py.tools.bounded import BoundedDict

MAX_TAGS = 4096
"""Tags whose origin is remembered, the last answered: one for each digest of a tag, since this node
may have one digest while a peer answers with the next."""

LONGEST_PULL = 3600.0
"""Seconds after a 404 in which the runtime may finish its pull from the registry."""

OVERLAP = 600.0
"""Seconds after an answer of a peer in which a 404 does not show where a pull went.

A pull that began with that answer may still be running. So of the same digest this node is no
witness then; it would sign the peer's word as its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagOrigin:
    """The origin of a tag with this digest.

    Args:
        digest: the digest that was answered, or seen.
        seen: Unix time, by this node's clock, as of which the tag is known.
        answered: Unix time of the answer; `seen` for this node's own look.
        observation: the signed word that came with it; None if there was none.
        peer: the id of the peer that gave it; empty for this node's own look.
    """

    digest: Digest
    seen: float
    answered: float
    observation: TagObservation | None = None
    peer: str = ""

    @property
    def author(self) -> str:
        """The id of the peer whose word it is; empty for this node's own."""
        return self.observation.observer if self.observation else self.peer


class TagOrigins:
    """Remembers the origins of tags. A tag's name may spell its registry in any way."""

    def __init__(self) -> None:
        self._origins: BoundedDict[tuple[str, Digest], TagOrigin] = BoundedDict(limit=MAX_TAGS)
        self._misses: BoundedDict[str, float] = BoundedDict(limit=MAX_TAGS)
        self.has_changed = False
        """True if an origin was recorded since somebody set this to False."""

    def __repr__(self) -> str:
        return f"<TagOrigins of {len(self._origins)} tags, {len(self._misses)} on their way>"

    def of(self, name: str, digest: Digest) -> TagOrigin | None:
        """Return the origin of a tag with this digest; None if it is unknown."""
        return self._origins.get((canonical_name(name), digest))

    def record(self, name: str, origin: TagOrigin) -> None:
        """Record the origin of a tag that this node answers, or has seen itself."""
        name = canonical_name(name)
        self._misses.pop(name, None)
        self._origins[name, origin.digest] = origin
        self.has_changed = True

    def record_miss(self, name: str, now: float) -> None:
        """Record that this node's own runtime got a 404 for a tag, and goes to the registry."""
        self._misses[canonical_name(name)] = now

    def is_expected(self, name: str, pulled: float) -> bool:
        """Return True if a pull that ended at this Unix time may have gone to the registry."""
        miss = self._misses.get(canonical_name(name))
        return miss is not None and miss <= pulled <= miss + LONGEST_PULL

    def looked(self, name: str, digest: Digest, pulled: float) -> float | None:
        """Return when this node's runtime went to the registry and got the digest there.

        That is the time of the 404, since the pull may end much later. Return None if the tag may
        have come from a peer.
        """
        if not self.is_expected(name, pulled):
            return None
        name = canonical_name(name)
        miss = self._misses[name]
        origin = self._origins.get((name, digest))
        if origin is None or not origin.peer or origin.answered < miss - OVERLAP:
            return miss
        return None

    def written(self) -> Iterator[Mapping[str, object]]:
        """Yield the origins as JSON, for a file."""
        for (name, _), origin in self._origins.items():
            yield {
                "name": name,
                "digest": str(origin.digest),
                "seen": origin.seen,
                "answered": origin.answered,
                "observation": origin.observation.header if origin.observation else "",
                "peer": origin.peer,
            }

    @staticmethod
    def read(entry: Mapping[str, object]) -> tuple[str, TagOrigin]:
        """Return an origin as `written` yields it, with the tag's name.

        Signatures are not verified again: nobody else can write the file. Raises ValueError for any
        other JSON.
        """
        texts = [entry.get(key) for key in ("name", "digest", "observation", "peer")]
        times = [entry.get(key) for key in ("seen", "answered")]
        name, digest_text, header, peer = (each for each in texts if isinstance(each, str))
        seen, answered = (float(each) for each in times if isinstance(each, int | float))
        try:
            digest = Digest.parse(digest_text)
            observation = (
                TagObservation.parse(header, name=name, digest=digest, is_verified=True)
                if header
                else None
            )
        except (DigestInvalid, ObservationInvalid) as error:
            raise ValueError(str(error)) from error
        origin = TagOrigin(
            digest=digest, seen=seen, answered=answered, observation=observation, peer=peer
        )
        return name, origin
