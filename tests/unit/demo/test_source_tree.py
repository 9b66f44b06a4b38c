"""The source of each blob at each node."""

from __future__ import annotations

from spegel_py.demo.source_tree import UPSTREAM, SourceTree
from spegel_py.oci.digest import Digest

A, B = Digest.of(b"a"), Digest.of(b"b")


def test_every_blob_has_a_tree() -> None:
    """Chains and branches are told from upstream down; another blob's nodes are not in it."""
    tree = SourceTree()
    for node, source in (("n1", UPSTREAM), ("n2", "n1"), ("n3", "n1"), ("n4", "n2")):
        assert tree.place(A, node, source)
    assert not tree.place(A, "n4", "n2")
    assert tree.line(A) == "upstream → n1 → (n2 → n4, n3)"
    assert tree.line(B) == "upstream"
    assert tree.below(A, "n1") == ["n2", "n3"]
    assert tree.sources(A) == {"n1": UPSTREAM, "n2": "n1", "n3": "n1", "n4": "n2"}


def test_a_node_has_one_source() -> None:
    """A node whose source failed moves below its next source, with all nodes below it."""
    tree = SourceTree()
    for node, source in (("n1", UPSTREAM), ("n2", "n1"), ("n3", "n2"), ("n2", UPSTREAM)):
        tree.place(A, node, source)
    assert tree.line(A) == "upstream → (n1, n2 → n3)"


def test_what_does_not_come_from_upstream_is_not_in_it() -> None:
    """A follower whose source is not known yet, and nodes that seem to feed each other, are left
    out until they are.
    """
    tree = SourceTree()
    for node, source in (("n1", UPSTREAM), ("n2", "n3"), ("n3", "n2"), ("n1", "n1")):
        tree.place(A, node, source)
    assert not tree.reaches(A, ["n1", "n2", "n3"])
    assert tree.line(A) == "upstream → n1"
    tree.place(A, "n3", "n1")
    assert tree.reaches(A, ["n1", "n2", "n3"])
