"""The filters of images. The same rule decides about serving, asking peers and advertising."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from spegel_py.errors import OCIError
from spegel_py.oci.reference import Reference, canonical_name, canonical_registry, is_host

WILDCARDS = ("_default", "*")
"""Entries that stand for all registries."""


class Pattern(Protocol):
    """A compiled regular expression of any library."""

    @property
    def pattern(self) -> str: ...
    def search(self, text: str, /) -> object | None: ...


class Filters:
    """Excludes labels that match one of `patterns`, and labels of registries outside `registries`.

    A label is `registry/repository`, optionally followed by `:tag`. No registries, or a wildcard
    among them, mean all registries. A label without a registry (a digest requested without `ns`)
    belongs to any registry. A registry may be spelled in several ways, so a pattern is tried on the
    label as given and on its canonical spelling.
    """

    def __init__(self, *, patterns: Iterable[Pattern] = (), registries: Iterable[str] = ()) -> None:
        self._patterns = tuple(patterns)
        found = frozenset(registries)
        is_all = not found.isdisjoint(WILDCARDS)
        self._registries = frozenset() if is_all else frozenset(map(canonical_registry, found))
        self._hosts = frozenset(re.sub(r":\d+$", "", registry) for registry in self._registries)
        self._ports = frozenset(
            port for one in self._patterns for port in re.findall(r":(\d+)", one.pattern)
        )

    def __repr__(self) -> str:
        patterns = [one.pattern for one in self._patterns]
        return f"<Filters {patterns} registries={sorted(self._registries) or 'all'}>"

    def __bool__(self) -> bool:
        return bool(self._patterns or self._registries)

    def exclude(self, label: str) -> bool:
        """Return True if content with this label is not mirrored."""
        if not self:
            return False
        canonical = canonical_name(label)
        registry, slash, _ = canonical.partition("/")
        if self._registries and slash and is_host(registry) and registry not in self._registries:
            return True
        labels = (label,) if canonical == label else (label, canonical)
        return any(pattern.search(each) for pattern in self._patterns for each in labels)

    def shares(self, sources: Iterable[str]) -> bool:
        """Return True if content from these repositories is mirrored.

        One repository that is mirrored suffices.

        A source is `registry/repository`; the registry's port may be missing. Content without a
        known source is mirrored only if there are no filters.
        """
        return not self or any(not self._leaves_out(source) for source in sources)

    def _leaves_out(self, source: str) -> bool:
        canonical = canonical_name(source)
        registry, _, repository = canonical.partition("/")
        variants = {source, canonical, *(f"{registry}:{port}/{repository}" for port in self._ports)}
        if any(pattern.search(variant) for variant in variants for pattern in self._patterns):
            return True
        return bool(self._registries) and registry not in self._registries | self._hosts


EVERYTHING = Filters()
"""The filters that exclude nothing."""


def repository_of(name: str) -> str | None:
    """Return the label `registry/repository` of an image's content; None for a bare digest."""
    try:
        reference = Reference.parse(name)
    except OCIError:
        return None
    return f"{reference.registry}/{reference.repository}"
