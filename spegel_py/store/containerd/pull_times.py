"""The time of an image's last pull, derived from the update time in its record.

A pull of an unchanged image writes a new update time and nothing else. Setting a label writes it
too. The labels distinguish the two, because a pull leaves them unchanged. Pure: images are passed
in as they are seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from spegel_py.store.containerd.grpc_client import NamedImage

CRI_OWN = "io.cri-containerd.image"
"""The label by which the CRI marks its images. The CRI sets it again after pulls of other clients.
"""


@dataclass(slots=True)
class _Known:
    image: NamedImage
    pulled: float


class PullTimes:
    """Remembers each image's last record and the Unix time of its last pull.

    A change of unknown cause does not count as a pull. A tag that seems older than it is costs one
    request to its registry. A tag that seems younger may be answered with outdated content.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        return f"<PullTimes images={len(self._known)}>"

    def of(self, image: NamedImage) -> float:
        """Return the time of the last pull of an image that was just read."""
        before = self._known.get(image.name)
        if before is not None and image.updated <= before.image.updated:
            return before.pulled  # a record already seen, or an older one that was read late
        pulled = _first(image) if before is None else _next(before, image)
        self._known[image.name] = _Known(image, pulled)
        return pulled

    def keep(self, names: Collection[str]) -> None:
        """Forget all other images."""
        for name in self._known.keys() - set(names):
            del self._known[name]


def _first(image: NamedImage) -> float:
    """Return the time of the last pull of an image that was not known.

    Its last change may be a pull or a label. If it has labels of other tools, the time of the
    record's creation counts.
    """
    return image.created if _labels(image) else image.updated


def _next(before: _Known, image: NamedImage) -> float:
    """Return the time of the last pull of an image whose record has changed."""
    # Case 1: the record was deleted and created again.
    if image.created != before.image.created:
        return _first(image)
    # Case 2: a pull moved the image to another target, whatever else changed.
    if image.target.digest != before.image.target.digest:
        return image.updated
    # Case 3: the labels changed. A pull that replaced another tool's labels looks the same.
    if _labels(image) != _labels(before.image):
        return before.pulled
    # Case 4: only the time changed, so it was a pull.
    return image.updated


def _labels(image: NamedImage) -> dict[str, str]:
    return {key: value for key, value in image.labels.items() if key != CRI_OWN}
