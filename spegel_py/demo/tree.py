"""Who takes each blob from whom, with upstream at the top. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from spegel_py.oci.digest import Digest

UPSTREAM = "upstream"
"""The name of the root: the registry that has the image before any node has."""


class Tree:
    """What is known so far; every node has one source of a blob at a time."""

    def __init__(self) -> None:
        self._sources: dict[Digest, dict[str, str]] = {}

    def __repr__(self) -> str:
        return f"<Tree {'; '.join(self.line(digest) for digest in self._sources)}>"

    def place(self, digest: Digest, node: str, source: str) -> bool:
        """Note whom a node takes a blob from; say whether that is new."""
        sources = self._sources.setdefault(digest, {})
        if node == source or sources.get(node) == source:
            return False
        sources[node] = source
        return True

    def sources(self, digest: Digest) -> Mapping[str, str]:
        """Return of each node whom it takes the blob from."""
        return self._sources.get(digest, {})

    def below(self, digest: Digest, source: str) -> list[str]:
        """Return who takes the blob from this source."""
        return [node for node, parent in self.sources(digest).items() if parent == source]

    def reaches(self, digest: Digest, nodes: Collection[str]) -> bool:
        """Say whether the blob comes from upstream to all of these, by way of each other or not."""
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
