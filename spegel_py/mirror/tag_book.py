"""The memory about tags: their origins, their observers, and the tags that are believed.

The decisions are pure, and stand in `tag_trust` and `tag_history`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NoReturn

import structlog

from spegel_py.errors import PeerTagNotBelieved, PeerTagTooOld
from spegel_py.mirror.freshness import Freshness
from spegel_py.mirror.tag_history import TagHistory
from spegel_py.mirror.tag_origins import TagOrigin, TagOrigins
from spegel_py.mirror.tag_trust import (
    Disbelief,
    Standing,
    TagAuthors,
    TagsFromPeers,
    TagWord,
    age_of,
    disbelief,
)
from spegel_py.oci.digest import Digest
from spegel_py.oci.reference import canonical_name
from spegel_py.routing.tag_observation import (
    PASSED_ON,
    ObservationInvalid,
    Sign,
    TagObservation,
)
from spegel_py.tools.bounded import BoundedDict

log = structlog.get_logger(__name__)

MAX_VERIFIED = 4096
"""Observations whose signature was verified and is not verified again; one takes 0.2 ms."""

BELIEVED = "ok"
"""The result of a tag that is believed, as the metric names it."""

MAX_ARRIVED = 256
"""Tags whose pull has ended, and of which this node may be a witness."""


class TagBook:
    """Judges the tags that peers answer, and makes and hands on observations.

    Args:
        own_id: this node's peer id.
        sign: signs with this node's key.
        authors: tells the standing of other nodes.
        freshness: decides for how long tags may be answered.
        rule: the authors that are believed.
        witnesses: different observers that must name one digest.
        counted: counts tags by whether they were believed: "ok" or a Disbelief.
        clock: Unix time.
        monotonic: monotonic seconds.
    """

    def __init__(
        self,
        *,
        own_id: str,
        sign: Sign,
        authors: TagAuthors,
        freshness: Freshness,
        rule: TagsFromPeers = TagsFromPeers.ALL,
        witnesses: int = 1,
        counted: Callable[[str], None] = lambda result: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_id = own_id
        self._sign = sign
        self._authors = authors
        self.freshness = freshness
        self.rule = rule
        self.witnesses = witnesses
        self._counted = counted
        self._clock = clock
        self._monotonic = monotonic
        self._verified: BoundedDict[tuple[str, str, str], TagObservation] = BoundedDict(
            limit=MAX_VERIFIED
        )
        self._arrived: BoundedDict[str, None] = BoundedDict(limit=MAX_ARRIVED)
        self.origins = TagOrigins()
        self.history = TagHistory(ttl=freshness.ttl)

    def __repr__(self) -> str:
        return f"<TagBook {self.rule.value} {self.origins!r} {self.history!r}>"

    # The answers of peers

    def judge(
        self,
        name: str,
        digest: Digest,
        header: str | None,
        *,
        peer: str,
        age: float | None,
        max_age: float,
        is_registry_away: bool,
    ) -> float | None:
        """Return the age of a tag that a peer answered, in seconds; None if it is unknown.

        Args:
            name: the tag's full name.
            digest: the digest that the peer answered.
            header: the value of TAG_SEEN_HEADER.
            peer: the id of the peer.
            age: the value of `Age`, None without one.
            max_age: seconds ago at which the tag may have been seen, at most.

        Raises:
            PeerTagNotBelieved: the tag is not believed.
            PeerTagTooOld: its observation is older than that.
        """
        now = self._clock()
        try:
            observation = self.parse(name, digest, header)
        except ObservationInvalid as error:
            log.warning("tag observation invalid", name=name, peer=peer, error=str(error))
            self._refuse(Disbelief.INVALID)
        word = self._word(name, observation, peer=peer)
        if observation is None:
            is_passed_on = header == PASSED_ON
            author = Standing.CONNECTED if word.author is Standing.GONE else word.author
            word = replace(word, author=author, is_passed_on=is_passed_on)
        reason = disbelief(word, rule=self.rule, is_registry_away=is_registry_away, now=now)
        if reason is not None:
            self._refuse(reason)
        if observation is not None:
            self.history.record(observation, now=now)
            if self.history.is_contested(canonical_name(name), observation.observer):
                self._refuse(Disbelief.CONTESTED)
        found = age_of(age, observation, now)
        if found is not None and found > max_age:
            raise PeerTagTooOld(round(found))
        return found

    def parse(self, name: str, digest: Digest, header: str | None) -> TagObservation | None:
        """Return the verified observation of an answer; None if it has none.

        Raises ObservationInvalid.
        """
        if header is None or header == PASSED_ON:
            return None
        name = canonical_name(name)
        key = (name, str(digest), header)
        if (known := self._verified.get(key)) is None:
            known = self._verified[key] = TagObservation.parse(header, name=name, digest=digest)
        return known

    def has_witnesses(
        self, name: str, digest: Digest, *, max_age: float, is_registry_away: bool
    ) -> bool:
        """Return True if enough nodes saw this digest, and no node saw a different digest later.

        With a later observation of another digest, only the registry knows whether the tag moved.
        """
        name, now = canonical_name(name), self._clock()
        trusted = [
            each
            for each in self.history.of(name)
            if self._is_trusted(each, is_registry_away=is_registry_away)
        ]
        same = [each for each in trusted if each.digest == digest and now - each.seen <= max_age]
        if len({each.observer for each in same}) < self.witnesses:
            return False
        latest = max(each.seen for each in same)
        return not any(each.seen > latest and each.digest != digest for each in trusted)

    def count_believed(self) -> None:
        """Count a tag of a peer that is passed on to a client."""
        self._counted(BELIEVED)

    def count_too_few(self) -> None:
        """Count a tag of a peer that too few witnesses name."""
        self._counted(Disbelief.WITNESSES.value)

    def record_relayed(
        self, name: str, digest: Digest, header: str | None, *, peer: str, age: float | None
    ) -> None:
        """Record that a client got a tag with the answer of a peer, which was believed."""
        now = self._clock()
        self.origins.record(
            name,
            TagOrigin(
                digest=digest,
                seen=now - (age or 0),
                answered=now,
                observation=self.parse(name, digest, header),
                peer=peer,
            ),
        )

    # The tags of this node

    def record_arrival(self, name: str, pulled: float) -> float:
        """Return when a tag that was pulled at that Unix time was last seen at its registry.

        Remember the tag if this node may be its witness.
        """
        if self.origins.is_expected(name, pulled):
            self._arrived[name] = None
        return self.freshness.last_seen(name, pulled)

    def arrived(self) -> list[str]:
        """Return the tags whose digest the caller should find out for `header`, once."""
        names = list(self._arrived)
        self._arrived.clear()
        return names

    def header(self, name: str, digest: Digest, pulled: float | None) -> str | None:
        """Return the value of TAG_SEEN_HEADER for a tag that is here, None without one.

        The first time after the runtime's own pull from the registry, it is a new observation.
        """
        looked = None if pulled is None else self.origins.looked(name, digest, pulled)
        if looked is not None:
            self._observe(name, digest, looked)
        origin = self.origins.of(name, digest)
        if origin is None:
            return None
        return origin.observation.header if origin.observation else PASSED_ON

    def seen(self, name: str, digest: Digest, seen: float) -> float:
        """Return when a tag that is here was last seen; `seen` is the time without its origin."""
        origin = self.origins.of(name, digest)
        return seen if origin is None else min(seen, origin.seen)

    def why_not_own(self, name: str, digest: Digest, *, is_registry_away: bool) -> str | None:
        """Return why a tag that is here is not answered, as a clause; None if it is.

        A tag that came from a peer is as good as the word of its author is now.
        """
        origin = self.origins.of(name, digest)
        if origin is None or not origin.peer:
            return None
        reason = disbelief(
            self._word(name, origin.observation, peer=origin.peer),
            rule=TagsFromPeers.ALL,
            is_registry_away=is_registry_away,
            now=self._clock(),
        )
        return reason.text if reason else None

    def conflicts(self) -> Mapping[str, str]:
        """Return the tags about which nodes contradict each other, with both sides in words."""
        return {name: str(each) for name, each in self.history.conflicts(self._clock()).items()}

    def look(self) -> None:
        """Record which nodes are connected now."""
        self._authors.look(self._monotonic())

    def restore(self, entry: Mapping[str, object]) -> None:
        """Record an origin of an earlier run. Raises ValueError."""
        name, origin = self.origins.read(entry)
        if not origin.peer and origin.author != self._own_id:
            return  # this node had another key, and its words of then have no author now
        self.origins.record(name, origin)
        if origin.peer:
            self.freshness.record_answer(name, origin.seen)
        if origin.observation is not None:
            is_own = origin.observation.observer == self._own_id
            self.history.record(origin.observation, now=self._clock(), is_own=is_own)

    def describe(self) -> Mapping[str, object]:
        """Return the state as JSON."""
        return {
            "from_peers": self.rule.value,
            "witnesses": self.witnesses,
            "conflicts": {
                name: {
                    side: {"digest": str(each.digest), "observer": each.observer, "at": each.seen}
                    for side, each in (
                        ("alone", conflict.alone),
                        ("before", conflict.before),
                        ("after", conflict.after),
                    )
                }
                for name, conflict in self.history.conflicts(self._clock()).items()
            },
        }

    def _observe(self, name: str, digest: Digest, looked: float) -> None:
        observation = TagObservation.made(
            canonical_name(name), digest, seen=int(looked), observer=self._own_id, sign=self._sign
        )
        self.origins.record(
            name,
            TagOrigin(
                digest=digest, seen=observation.seen, answered=looked, observation=observation
            ),
        )
        self.history.record(observation, now=looked, is_own=True)
        log.debug("tag observed", name=name, digest=str(digest))

    def _word(self, name: str, observation: TagObservation | None, *, peer: str) -> TagWord:
        author = observation.observer if observation is not None else peer
        return TagWord(
            observation=observation,
            author=self._authors.standing(author, self._monotonic()),
            is_contested=self.history.is_contested(canonical_name(name), author),
        )

    def _is_trusted(self, observation: TagObservation, *, is_registry_away: bool) -> bool:
        word = self._word(observation.name, observation, peer="")
        return (
            disbelief(word, rule=self.rule, is_registry_away=is_registry_away, now=self._clock())
            is None
        )

    def _refuse(self, reason: Disbelief) -> NoReturn:
        self._counted(reason.value)
        raise PeerTagNotBelieved(reason.text)
