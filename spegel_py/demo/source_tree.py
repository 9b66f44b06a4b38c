"""The source of each blob at each node: another node, or upstream at the root. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from spegel_py.oci.digest import Digest

UPSTREAM = "upstream"
"""Name of the root: the registry that has the image before any node has."""


class SourceTree:
    """A tree per blob. Every node has one source of a blob at a time; nodes are known by name."""

    def __init__(self) -> None:
        self._sources: dict[Digest, dict[str, str]] = {}

    def __repr__(self) -> str:
        return f"<SourceTree {'; '.join(self.line(digest) for digest in self._sources)}>"

    def place(self, digest: Digest, node: str, source: str) -> bool:
        """Record the source of a node; return True if it is new."""
        sources = self._sources.setdefault(digest, {})
        if node == source or sources.get(node) == source:
            return False
        sources[node] = source
        return True

    def sources(self, digest: Digest) -> Mapping[str, str]:
        """Return the source of each node that takes the blob."""
        return self._sources.get(digest, {})

    def below(self, digest: Digest, source: str) -> list[str]:
        """Return the nodes that take the blob from this source."""
        return [node for node, parent in self.sources(digest).items() if parent == source]

    def reaches(self, digest: Digest, nodes: Collection[str]) -> bool:
        """Return True if every node has a path to upstream, direct or through other nodes."""
        reached, waiting = set[str](), [UPSTREAM]
        while waiting:
            found = self.below(digest, waiting.pop())
            reached.update(found)
            waiting.extend(found)
        return reached.issuperset(nodes)

    def line(self, digest: Digest, top: str = UPSTREAM) -> str:
        """Return the blob's tree as one line: `upstream → node 1 → (node 2, node 3)`."""
        below = [self.line(digest, node) for node in self.below(digest, top)]
        if not below:
            return top
        return f"{top} → {below[0]}" if len(below) == 1 else f"{top} → ({', '.join(below)})"
