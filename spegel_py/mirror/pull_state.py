"""The values and collaborators that all steps of one pull share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from spegel_py.mirror.attempts import Attempts
from spegel_py.mirror.candidates import Candidates
from spegel_py.mirror.content_sizes import ContentSizes
from spegel_py.mirror.hedge_schedule import LatencyWindow
from spegel_py.mirror.metrics import MirrorMetrics
from spegel_py.mirror.parent_source import ParentSource
from spegel_py.mirror.slow_peers import ParallelSettings
from spegel_py.mirror.tag_book import TagBook
from spegel_py.mirror.verification import MemoryBudget, VerificationPolicy
from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullRequest
from spegel_py.oci.range import ByteRange
from spegel_py.routing.base import Peer
from spegel_py.transfer.base import PeerAnswer, PeerRequest

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class PullState:
    """One pull.

    Args:
        pull: the client's request.
        max_age: seconds ago at which a tag may have been seen at its registry, at most.
        is_registry_away: True if the tag's registry does not answer.
        tags: judges the tags that peers answer; None to believe every one.
        expected_size: bytes that the content must have, None where that is unknown.
        candidates: the peers of this pull.
        attempts: the requests made to them.
        parent_source: asks the coordinator for parents; None if only complete content is fetched.
        digest: the content's digest, None for a tag until a peer has answered.
        latencies, sizes, memory, verification, parallel, metrics: shared by all pulls. Without
            `parallel` bodies are fetched from one peer at a time.
        clock: monotonic seconds.
    """

    pull: PullRequest
    max_age: float
    is_registry_away: bool
    tags: TagBook | None
    expected_size: int | None
    candidates: Candidates
    attempts: Attempts
    parent_source: ParentSource | None
    digest: Digest | None
    latencies: LatencyWindow
    sizes: ContentSizes
    memory: MemoryBudget
    verification: VerificationPolicy
    parallel: ParallelSettings | None
    metrics: MirrorMetrics
    clock: Callable[[], float]

    def request(self, part: ByteRange | None, size: int | None) -> PeerRequest:
        """Return the request for a part of the content; without `part` for the whole content.

        A HEAD of a manifest is answered from the verified manifest, so a peer is asked for the
        whole manifest. A wrong length or type, or the digest of a tag that nobody has, would end a
        runtime's pull although its registry is well.
        """
        pull = self.pull
        return PeerRequest(
            target=pull.target,
            head=pull.head and pull.kind is Kind.BLOB,
            accept=pull.accept,
            range=part,
            digest=pull.digest,
            size=size,
            max_age=self.max_age,
            is_background=pull.client.is_background,
        )

    def tag_age(self, digest: Digest, answer: PeerAnswer, peer: Peer) -> float | None:
        """Return the age of the answered tag in seconds; None if it is unknown, or for a digest.

        Raises PeerTagNotBelieved and PeerTagTooOld.
        """
        if self.pull.name is None or self.tags is None:
            return answer.age
        return self.tags.judge(
            self.pull.name,
            digest,
            answer.seen,
            peer=peer.id,
            age=answer.age,
            max_age=self.max_age,
            is_registry_away=self.is_registry_away,
        )

    def log(self, event: str, **fields: object) -> None:
        """Log a step of this pull; `pull` lists the events."""
        log.debug(
            event,
            digest=str(self.digest) if self.digest else None,
            name=self.pull.name,
            kind=self.pull.kind.name.lower(),
            method="HEAD" if self.pull.head else "GET",
            **fields,
        )
