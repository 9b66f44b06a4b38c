"""When an image was last pulled, told from the time that containerd writes at every change of its record.

A pull of an image that is there already writes a new time and nothing else, and so does a label that
somebody sets. What tells them apart is the labels: a pull leaves them as they were. Pure: images are
passed in as they are seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from spegel_py.store.containerd.client import NamedImage

CRI_OWN = "io.cri-containerd.image"
"""The label by which the CRI marks images as its own: it sets it anew after pulls of other clients."""


@dataclass(slots=True)
class _Known:
    image: NamedImage
    pulled: float


class PullTimes:
    """Remembers of each image how it was seen last, and when it was pulled, in Unix time.

    Where nobody can say whether a change was a pull, it counts as none: a tag that is thought older
    than it is costs a request to its registry, one that is thought younger may be answered wrongly.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def __repr__(self) -> str:
        return f"<PullTimes images={len(self._known)}>"

    def of(self, image: NamedImage) -> float:
        """Return when the image, which was seen just now, was last pulled."""
        before = self._known.get(image.name)
        if before is not None and image.updated <= before.image.updated:
            return before.pulled  # seen already, or a record that was read before the one known
        pulled = _first(image) if before is None else _next(before, image)
        self._known[image.name] = _Known(image, pulled)
        return pulled

    def keep(self, names: Collection[str]) -> None:
        """Forget all images but these."""
        for name in self._known.keys() - set(names):
            del self._known[name]


def _first(image: NamedImage) -> float:
    """Return when an image was pulled that was never seen before.

    Its last change may have been its pull or a label: with labels of somebody's, it counts from when
    the record was made.
    """
    return image.created if _labels(image) else image.updated


def _next(before: _Known, image: NamedImage) -> float:
    """Return when an image was pulled whose record has changed since it was seen."""
    # Case 1: the record was deleted, and made anew.
    if image.created != before.image.created:
        return _first(image)
    # Case 2: a pull moved it, whatever else it wrote.
    if image.target.digest != before.image.target.digest:
        return image.updated
    # Case 3: somebody labelled it. A pull that replaced somebody's labels looks the same.
    if _labels(image) != _labels(before.image):
        return before.pulled
    # Case 4: nothing changed but the time.
    return image.updated


def _labels(image: NamedImage) -> dict[str, str]:
    return {key: value for key, value in image.labels.items() if key != CRI_OWN}
