"""The nodes that an image is meant for, among those that are there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from spegel_py.errors import RequestInvalid
from spegel_py.oci.digest import Digest
from spegel_py.preheat.preheat_request import EACH, HERE, NodeChoice
from spegel_py.replicas.zone_spread import ReplicaTarget, ZoneMap, choose_spread

SHORTEST_END = 6
"""Characters of the end of an id that name a node."""


@dataclass(frozen=True, slots=True, order=True)
class KnownNode:
    """A node by its id, its address, its name, if that is known, and its zone."""

    id: str
    address: str = ""
    name: str = ""
    zone: str = ""

    @property
    def label(self) -> str:
        """The name and the address, as far as they are known: the name alone may be ambiguous."""
        return (
            f"{self.name} ({self.address})"
            if self.name and self.address
            else (self.name or self.address)
        )

    def is_called(self, text: str) -> bool:
        """Return True if a person's text names this node."""
        is_end = len(text) >= SHORTEST_END and self.id.endswith(text.lstrip("…"))
        return is_end or text in (self.id, self.address, self.name)


def choose(
    choice: NodeChoice, digest: Digest, *, own: KnownNode, others: Iterable[KnownNode]
) -> list[str]:
    """Return the ids of the chosen nodes.

    A number of nodes are the first ones of the ranking by the image's digest, in different zones as
    far as possible. The ranking is the same at every node that knows the same nodes. Call `check`
    first.
    """
    nodes = {one.id: one for one in (own, *others)}
    if choice.names is None:
        zones = ZoneMap(of={one.id: one.zone for one in nodes.values()})
        count = choice.count or len(nodes)
        if choice.zone == EACH:
            count = len(zones.covered(nodes))
        elif choice.zone:
            nodes = {one: node for one, node in nodes.items() if node.zone == choice.zone}
            count = len(nodes)
        return choose_spread(digest, nodes, kept=(), target=ReplicaTarget(count), zones=zones)
    found = [
        node.id
        for name in choice.names
        for node in ([own] if name == HERE else nodes.values())
        if name == HERE or node.is_called(name)
    ]
    return list(dict.fromkeys(found))


def check(choice: NodeChoice, *, own: KnownNode, others: Collection[KnownNode]) -> None:
    """Raise RequestInvalid for a choice that the nodes which are there do not fulfil."""
    nodes = [own, *others]
    zones = sorted({node.zone for node in nodes if node.zone})
    if choice.zone and choice.zone not in (EACH, *zones):
        known = f"known are {', '.join(zones[:10])}" if zones else "no node has a zone"
        raise RequestInvalid(f"nodes: no node is in the zone {choice.zone!r}; {known}")
    if choice.count > len(nodes):
        raise RequestInvalid(f"nodes: {choice.count} are more than the {len(nodes)} that are there")
    for name in choice.names or ():
        found = [] if name == HERE else [node for node in nodes if node.is_called(name)]
        if name != HERE and not found:
            known = ", ".join(sorted(node.address or node.id for node in nodes)[:10])
            raise RequestInvalid(f"nodes: there is no node {name[:100]!r}; known are {known}")
        if len(found) > 1:
            raise RequestInvalid(f"nodes: {name[:100]!r} names {len(found)} nodes")


def is_meant(
    choice: NodeChoice, digest: Digest, *, own: KnownNode, others: Iterable[KnownNode]
) -> bool:
    """Return True if this node is among the chosen ones. Unknown names are other nodes' names."""
    return own.id in choose(choice, digest, own=own, others=others)
