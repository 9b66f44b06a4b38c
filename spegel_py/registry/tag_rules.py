"""The rules for tags, which may move at their registry at any time; a digest cannot.

They say who is asked first for a tag, how old it may be, and that an old tag is answered while its
registry is away.
"""

from __future__ import annotations

import math
import time

import structlog
from aiohttp import web

from spegel_py.mirror.first_response import RelayHead
from spegel_py.mirror.freshness import Freshness, TagPolicy
from spegel_py.mirror.pull import Mirror
from spegel_py.mirror.registry_reach import RegistryReach
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.tag_trust import TagsFromPeers
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, LocalState
from spegel_py.registry import responses
from spegel_py.registry.askers import Asker
from spegel_py.registry.local_content import LocalMatch
from spegel_py.registry.pinned_tags import PinnedTags
from spegel_py.routing.tag_observation import PASSED_ON
from spegel_py.telemetry.pull_record import PullContext

log = structlog.get_logger(__name__)


class TagRules:
    """Decides about the tags of pulls; each method leaves a pull of a digest alone.

    Args:
        freshness: decides how long a tag is answered. A peer gets the age, and decides for itself.
        reach: finds out whether a tag's registry answers; None to answer no tag that is too old.
        policy: who is asked first for a client's tag.
        book: has the observations of tags; None to believe every peer, and make none.
    """

    def __init__(
        self,
        *,
        freshness: Freshness,
        reach: RegistryReach | None = None,
        policy: TagPolicy = TagPolicy.PEERS_FIRST,
        book: TagBook | None = None,
    ) -> None:
        self._freshness = freshness
        self._book = book
        self._reach = reach
        self._policy = policy
        self._pinned = PinnedTags()

    def __repr__(self) -> str:
        return f"<TagRules {self._policy.value} {self._freshness!r}>"

    def pin(self, request: web.Request, pull: PullRequest) -> PullRequest:
        """Return the request for the digest that the client's HEAD was answered with just now.

        Its answer gets the age of the tag. Any other request is returned unchanged.
        """
        asked, pinned = self._pinned.pin(request.remote or "", pull, time.monotonic())
        if pinned is not None and pinned.age is not None:
            request[responses.AGE] = pinned.age
        return asked

    def record_answer(
        self,
        request: web.Request,
        pull: PullRequest,
        response: web.StreamResponse,
        context: PullContext,
    ) -> None:
        """Record the digest and the age of an answer, for the GET that follows a HEAD."""
        age = response.headers.get("Age")
        self._pinned.record(request.remote or "", pull, context.digest, age, time.monotonic())

    async def check(self, asker: Asker, pull: PullRequest) -> None:
        """Return if a tag may be answered from here. Raises ManifestUnknown.

        Case 1: no tags are answered.
        Case 2: a client's tag comes from its registry, if that answers. While the registry is away,
        tags are answered as with peers first.
        """
        if pull.name is None:
            return
        if not self._freshness.ttl:
            raise pull.kind.unknown("tags are not mirrored", detail={"filtered": True})
        if pull.mirrored or self._policy is TagPolicy.PEERS_FIRST:
            return
        asks_reach = self._reach if asker is not Asker.PEER else None  # see Door.PEERS
        if asks_reach is None or not await asks_reach.is_away(pull.registry or ""):
            self.record_miss(pull)
            self.record_refusal(asker, pull)
            raise pull.kind.unknown("tags come from the registry", detail={"filtered": True})

    def check_peers(self, pull: PullRequest) -> None:
        """Return if peers may be asked for a tag. Raises ManifestUnknown."""
        if pull.name is None or self._book is None:
            return
        if self._book.rule is TagsFromPeers.OFF:
            raise pull.kind.unknown("no tag is taken from peers", detail={"filtered": True})

    async def is_registry_away(
        self, pull: PullRequest, mirror: Mirror, context: PullContext
    ) -> bool:
        """Return True if a tag is too old everywhere, and its registry does not answer."""
        if pull.name is None or pull.registry is None or self._reach is None:
            return False
        # Case 1: the tag here, or the answer of a peer, was too old, or was not believed.
        # Case 2: no peer announces a tag that is young enough, but one announces an older one.
        # Otherwise the tag is not too old: nobody has it, or its holders failed.
        lookup = context.lookup
        is_too_old = context.local in (LocalState.TOO_OLD, LocalState.UNBELIEVED) or any(
            each.outcome in (AttemptOutcome.TOO_OLD, AttemptOutcome.UNBELIEVED)
            for each in context.attempts
        )
        if not is_too_old and (lookup is None or lookup.found):
            return False
        if not is_too_old and not await mirror.has_holder(pull):
            return False
        return await self._reach.is_away(pull.registry)

    def is_unusable(self, pull: PullRequest, found: LocalMatch, context: PullContext) -> bool:
        """Return True if a tag here must not be answered, to a client.

        Case 1: it came from a peer, and the word of its author does not count any more.
        Case 2: it is too old, and the registry may have a newer tag.
        """
        self.observation(pull, found)  # a new one has the time of the look, not of the pull's end
        seen, now = self._seen(pull, found), time.time()
        if pull.name is None or seen is None or pull.mirrored:
            return False
        if self._book is not None:
            is_away = context.is_registry_away
            reason = self._book.why_not_own(pull.name, found.digest, is_registry_away=is_away)
            if reason is not None:
                context.local = LocalState.UNBELIEVED
                log.info("tag not believed any more", name=pull.name, reason=reason)
                return True
        if context.is_registry_away or self._freshness.is_fresh(seen, now):
            return False
        context.local, context.age = LocalState.TOO_OLD, now - seen
        log.debug("tag too old", name=pull.name, seconds=round(now - seen))
        return True

    def max_age(self, pull: PullRequest, context: PullContext) -> float:
        """Return the seconds ago at which a peer's tag may have been seen, at most."""
        has_limit = pull.name is not None and not context.is_registry_away
        return self._freshness.ttl if has_limit else math.inf

    def record_miss(self, pull: PullRequest) -> None:
        """Record that a tag was not answered: the next pull goes to the registry."""
        if pull.name is not None:
            self._freshness.record_miss(pull.name, time.time())

    def record_refusal(self, asker: Asker, pull: PullRequest) -> None:
        """Record that a tag gets a 404; this node's own runtime asks the registry then."""
        if pull.name is not None and self._book is not None and asker is Asker.RUNTIME:
            self._book.origins.record_miss(pull.name, time.time())

    def record_local(self, pull: PullRequest, found: LocalMatch) -> float | None:
        """Record that a tag is answered from here; return its age in seconds, None for a digest."""
        return self._record_seen(pull, self._seen(pull, found))

    def record_relayed(self, pull: PullRequest, head: RelayHead) -> str | None:
        """Record that a tag is answered with the answer of a peer.

        Return the observation to hand on, None without one.
        """
        if pull.name is None:
            return None
        self._record_seen(pull, time.time() - (head.age or 0))
        if self._book is None:
            return None
        self._book.record_relayed(
            pull.name, head.digest, head.seen, peer=head.peer.id, age=head.age
        )
        return head.seen or PASSED_ON

    def observation(self, pull: PullRequest, found: LocalMatch) -> str | None:
        """Return the observation of a tag that is answered from here; None without one."""
        if pull.name is None or self._book is None:
            return None
        return self._book.header(pull.name, found.digest, found.pulled)

    def _seen(self, pull: PullRequest, found: LocalMatch) -> float | None:
        """Return when the tag was last seen at its registry; None for a digest."""
        if pull.name is None or found.pulled is None:
            return None
        seen = self._freshness.last_seen(pull.name, found.pulled)
        return seen if self._book is None else self._book.seen(pull.name, found.digest, seen)

    def _record_seen(self, pull: PullRequest, seen: float | None) -> float | None:
        """Record when the tag of an answer was seen, and return its age in seconds.

        Returns None for a digest.
        """
        if pull.name is None or seen is None:
            return None
        if not pull.mirrored:
            self._freshness.record_answer(pull.name, seen)
        return time.time() - seen
