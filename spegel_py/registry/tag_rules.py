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
from spegel_py.oci.distribution import PullRequest
from spegel_py.outcomes import AttemptOutcome, LocalState
from spegel_py.registry import responses
from spegel_py.registry.askers import Asker
from spegel_py.registry.local_content import LocalMatch
from spegel_py.registry.pinned_tags import PinnedTags
from spegel_py.telemetry.pull_record import PullContext

log = structlog.get_logger(__name__)


class TagRules:
    """Decides about the tags of pulls; each method leaves a pull of a digest alone.

    Args:
        freshness: decides how long a tag is answered. A peer gets the age, and decides for itself.
        reach: finds out whether a tag's registry answers; None to answer no tag that is too old.
        policy: who is asked first for a client's tag.
    """

    def __init__(
        self,
        *,
        freshness: Freshness,
        reach: RegistryReach | None = None,
        policy: TagPolicy = TagPolicy.PEERS_FIRST,
    ) -> None:
        self._freshness = freshness
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
            raise pull.kind.unknown("tags come from the registry", detail={"filtered": True})

    async def is_registry_away(
        self, pull: PullRequest, mirror: Mirror, context: PullContext
    ) -> bool:
        """Return True if a tag is too old everywhere, and its registry does not answer."""
        if pull.name is None or pull.registry is None or self._reach is None:
            return False
        # Case 1: the tag here, or the answer of a peer, was too old.
        # Case 2: no peer announces a tag that is young enough, but one announces an older one.
        # Otherwise the tag is not too old: nobody has it, or its holders failed.
        lookup = context.lookup
        is_too_old = context.local is LocalState.TOO_OLD or any(
            each.outcome is AttemptOutcome.TOO_OLD for each in context.attempts
        )
        if not is_too_old and (lookup is None or lookup.found):
            return False
        if not is_too_old and not await mirror.has_holder(pull):
            return False
        return await self._reach.is_away(pull.registry)

    def is_too_old(self, pull: PullRequest, found: LocalMatch, context: PullContext) -> bool:
        """Return True if a tag here is too old for a client: the registry may have a newer tag."""
        seen, now = self._seen(pull, found), time.time()
        if seen is None or pull.mirrored or context.is_registry_away:
            return False
        if self._freshness.is_fresh(seen, now):
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

    def record_local(self, pull: PullRequest, found: LocalMatch) -> float | None:
        """Record that a tag is answered from here; return its age in seconds, None for a digest."""
        return self._record_seen(pull, self._seen(pull, found))

    def record_relayed(self, pull: PullRequest, head: RelayHead) -> None:
        """Record that a tag is answered with the answer of a peer."""
        self._record_seen(pull, None if pull.digest else time.time() - (head.age or 0))

    def _seen(self, pull: PullRequest, found: LocalMatch) -> float | None:
        """Return when the tag was last seen at its registry; None for a digest."""
        if pull.name is None or found.pulled is None:
            return None
        return self._freshness.last_seen(pull.name, found.pulled)

    def _record_seen(self, pull: PullRequest, seen: float | None) -> float | None:
        """Record when the tag of an answer was seen, and return its age in seconds.

        Returns None for a digest.
        """
        if pull.name is None or seen is None:
            return None
        if not pull.mirrored:
            self._freshness.record_answer(pull.name, seen)
        return time.time() - seen
