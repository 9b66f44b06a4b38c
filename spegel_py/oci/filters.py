"""Which images are mirrored: one rule for what is served, what is asked of peers and what is advertised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from spegel_py.errors import OCIError
from spegel_py.oci.reference import Reference, canonical_name, canonical_registry, is_host

WILDCARDS = ("_default", "*")
"""What stands for all registries among those that are mirrored."""


class Pattern(Protocol):
    """A compiled regular expression, whichever library compiled it."""

    @property
    def pattern(self) -> str: ...
    def search(self, text: str, /) -> object | None: ...


class Filters:
    """What is left out: labels in which one of `patterns` is found, and those of other registries than `registries`.

    A label is `registry/repository`, with `:tag` where there is one. No registries means all of
    them, and so does a wildcard among them. A label without a registry (a digest that was asked for
    without `ns`) belongs to any. A registry may be spelled in any way: a pattern is looked for in
    the label as it is spelled, and in its canonical spelling.
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
        return f"<Filters {[one.pattern for one in self._patterns]} registries={sorted(self._registries) or 'all'}>"

    def __bool__(self) -> bool:
        return bool(self._patterns or self._registries)

    def exclude(self, label: str) -> bool:
        """Say whether what has this label is not mirrored."""
        if not self:
            return False
        canonical = canonical_name(label)
        registry, slash, _ = canonical.partition("/")
        if self._registries and slash and is_host(registry) and registry not in self._registries:
            return True
        labels = (label,) if canonical == label else (label, canonical)
        return any(pattern.search(each) for pattern in self._patterns for each in labels)

    def shares(self, sources: Iterable[str]) -> bool:
        """Return True if content that came from these repositories is mirrored: one that is will do.

        A source is `registry/repository`, with its registry always; the registry's port may be unknown,
        and missing. Content without a known source is mirrored only where nothing is left out.
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
"""Nothing is left out."""


def repository_of(name: str) -> str | None:
    """Return the label of an image's content, `registry/repository`; None for a name that has none (a bare digest)."""
    try:
        reference = Reference.parse(name)
    except OCIError:
        return None
    return f"{reference.registry}/{reference.repository}"
