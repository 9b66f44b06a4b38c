"""Which images are mirrored: one rule for what is served, what is asked of peers and what is advertised."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spegel_py.errors import OCIError
from spegel_py.oci.reference import Reference, is_host


class Filters:
    """What is left out: labels in which one of `patterns` is found, and those of other registries than `registries`.

    A label is `registry/repository`, with `:tag` where there is one. No registries means all of them; a label
    without a registry (a digest that was asked for without `ns`) belongs to any.
    """

    def __init__(self, *, patterns: Iterable[re.Pattern[str]] = (), registries: Iterable[str] = ()) -> None:
        self._patterns = tuple(patterns)
        self._registries = frozenset(registries)
        self._hosts = frozenset(re.sub(r":\d+$", "", registry) for registry in self._registries)
        self._ports = frozenset(port for one in self._patterns for port in re.findall(r":(\d+)", one.pattern))

    def __repr__(self) -> str:
        return f"<Filters {[one.pattern for one in self._patterns]} registries={sorted(self._registries) or 'all'}>"

    def __bool__(self) -> bool:
        return bool(self._patterns or self._registries)

    def exclude(self, label: str) -> bool:
        """Say whether what has this label is not mirrored."""
        registry, slash, _ = label.partition("/")
        if self._registries and slash and is_host(registry) and registry not in self._registries:
            return True
        return any(pattern.search(label) for pattern in self._patterns)

    def shares(self, sources: Iterable[str]) -> bool:
        """Return True if content that came from these repositories is mirrored: one that is will do.

        A source is `registry/repository`, with its registry always; the registry's port may be unknown,
        and missing. Content without a known source is mirrored only where nothing is left out.
        """
        return not self or any(not self._leaves_out(source) for source in sources)

    def _leaves_out(self, source: str) -> bool:
        registry, _, repository = source.partition("/")
        variants = {source, *(f"{registry}:{port}/{repository}" for port in self._ports)}
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
