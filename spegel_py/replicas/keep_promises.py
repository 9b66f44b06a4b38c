"""The answers of other nodes that were asked to keep an image, for as long as they count. Pure.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from spegel_py.oci.digest import Digest
from spegel_py.replicas.keep_messages import (
    ImageKept,
    ImageTaking,
    KeepAnswer,
    KeepRefused,
    RefusalReason,
)

PROMISE = 120.0
"""Seconds for which a promise counts, besides the time that the image's bytes take."""

SILENCE = 10.0
"""Seconds for which a node that did not answer is not asked again."""


@dataclass(slots=True)
class _Asked:
    promised: dict[str, float] = field(default_factory=dict)
    refused: dict[str, tuple[float, RefusalReason]] = field(default_factory=dict)


class KeepPromises:
    """The promises and refusals of all images.

    Args:
        rate: bytes per second that a keeper is expected to take an image with.
    """

    def __init__(self, *, rate: float) -> None:
        self._rate = rate
        self._asked: dict[Digest, _Asked] = {}

    def __repr__(self) -> str:
        return f"<KeepPromises of {len(self._asked)} images>"

    def record(
        self, manifest: Digest, node: str, answer: KeepAnswer | None, *, size: int, now: float
    ) -> None:
        """Record the answer of a node; None if it did not answer."""
        asked = self._asked.setdefault(manifest, _Asked())
        asked.promised.pop(node, None)
        match answer:
            case ImageKept() | ImageTaking():
                asked.promised[node] = now + PROMISE + size / self._rate
                asked.refused.pop(node, None)
            case KeepRefused(why, retry):
                asked.refused[node] = now + retry, why
            case _:
                asked.refused[node] = now + SILENCE, RefusalReason.SILENT

    def promised(self, manifest: Digest, now: float) -> frozenset[str]:
        """Return the nodes that are taking the image."""
        asked = self._asked.get(manifest, _Asked())
        return frozenset(node for node, until in asked.promised.items() if until > now)

    def refused(self, manifest: Digest, now: float) -> Mapping[str, RefusalReason]:
        """Return the nodes that do not want to be asked yet, with their reasons."""
        asked = self._asked.get(manifest, _Asked())
        return {node: why for node, (until, why) in asked.refused.items() if until > now}

    def taking(self, replicas: Mapping[Digest, Collection[str]], now: float) -> int:
        """Return how many promises are open: of nodes without a replica yet.

        Args:
            replicas: the nodes with a replica of each image.
        """
        return sum(
            len(self.promised(manifest, now) - set(replicas.get(manifest, ())))
            for manifest in self._asked
        )

    def keep(self, manifests: Collection[Digest]) -> None:
        """Forget all other images."""
        for manifest in self._asked.keys() - set(manifests):
            del self._asked[manifest]
