"""How often each image is pulled in the cluster, and how many replicas more that is worth. Pure.

Each node counts the manifests that it answers, and multiplies each by the number of nodes that have
the image: any of them could have been asked. A pull from a peer counts half at either end. Counts
decay, so an image that nobody pulls any more gets cold. Copies grow with the square root of the
heat (Cohen and Shenker, 2002): pulls make copies by themselves, in proportion to the demand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping

from spegel_py.oci.digest import Digest
from spegel_py.oci.distribution import Kind, PullClient
from spegel_py.outcomes import ContentSource
from spegel_py.replicas.keep_messages import MAX_HEAT
from spegel_py.replicas.replica_rules import HOUR
from spegel_py.telemetry.pull_record import PullContext
from spegel_py.tools.bounded import BoundedDict

HALF_LIFE = 6 * HOUR
"""Seconds after which a pull counts half: a working day leaves a quarter of itself to the next."""

PULLS_PER_COPY = 4.0
"""Heat that is worth one replica more. Four times as much is worth two, nine times three."""

HYSTERESIS = 1.25
"""Factor by which the heat falls below the value that was worth a replica, before it is not."""

MAX_COUNTED = 10_000
"""Digests whose pulls are remembered."""


def extra_copies(heat: float, before: int) -> int:
    """Return the replicas beyond the floor that a heat is worth.

    Args:
        before: the last result for the same image. It holds until the heat is HYSTERESIS times too
            small for it, so that one pull more or less moves nothing.
    """
    risen = math.isqrt(int(heat / PULLS_PER_COPY))
    fallen = math.isqrt(int(HYSTERESIS * heat / PULLS_PER_COPY))
    return max(risen, min(before, fallen))


class ImageHeat:
    """The heat of images, by the digests of their manifests.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heat: BoundedDict[Digest, tuple[float, float]] = BoundedDict(limit=MAX_COUNTED)
        self._extra: dict[Digest, int] = {}
        self.copies: Mapping[Digest, int] = {}
        """The number of nodes that have each image, as of the last scan."""

    def __repr__(self) -> str:
        return f"<ImageHeat of {len(self._heat)} digests>"

    def count(self, context: PullContext) -> None:
        """Count a request of a runtime for a manifest, here or at a peer, that was answered."""
        pull, digest = context.pull, context.digest
        if digest is None or pull.kind is not Kind.MANIFEST or pull.head:
            return
        if pull.client is not PullClient.RUNTIME or not context.is_complete:
            return
        is_from_peer = pull.mirrored or context.source is ContentSource.PEER
        self.add(digest, (0.5 if is_from_peer else 1.0) * self.copies.get(digest, 1))

    def add(self, manifest: Digest, pulls: float) -> None:
        """Add pulls that happen now."""
        self._heat[manifest] = min(MAX_HEAT, self.of(manifest) + pulls), self._clock()

    def learn(self, manifest: Digest, heat: float) -> None:
        """Take the heat that other nodes have seen, unless this node has seen more."""
        self._heat[manifest] = max(self.of(manifest), min(heat, MAX_HEAT)), self._clock()

    def of(self, manifest: Digest) -> float:
        """Return the heat of an image: pulls in the cluster, of which the older ones count less."""
        heat, at = self._heat.get(manifest, (0.0, 0.0))
        return heat * math.exp2((at - self._clock()) / HALF_LIFE)

    def worth(self, manifest: Digest) -> int:
        """Return the replicas beyond the floor that an image is worth."""
        found = extra_copies(self.of(manifest), self._extra.get(manifest, 0))
        self._extra[manifest] = found
        return found

    def keep(self, manifests: Collection[Digest]) -> None:
        """Forget the replicas of all other images. Their pulls decay, and are kept."""
        self._extra = {one: self._extra[one] for one in self._extra.keys() & set(manifests)}
