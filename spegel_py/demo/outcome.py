"""What came out of a demonstration: values, and what is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spegel_py.demo.content import MB


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """What one node's pull brought; bytes are those of manifests, configs and layers."""

    node: str
    from_peers: Mapping[str, int] = field(default_factory=dict)
    """Bytes by the name of the node they came from, as this node's log counts them."""
    from_upstream: int = 0
    """Bytes that the client took from the image's own registry."""
    fetched: int = 0
    """Bytes that its pull took in: what the client itself counted."""
    upstream_requests: int = 0
    """Requests that containerd takes to the image's own registry: its mirror gave 404, or failed."""
    resumed: int = 0
    """Times that an answer to the pull broke off and was asked for again."""
    seconds: float = 0.0
    verified: int = 0
    """Digests that were verified while pulling."""
    error: str | None = None
    """Why the pull failed."""

    @property
    def rate(self) -> float:
        """MB per second."""
        return self.fetched / MB / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """The node that was killed while it was sending a layer, and how the layer went on."""

    node: str
    pid: int
    layer: str
    size: int
    client_byte: int
    """Bytes of the layer that the client had when the signal was sent."""
    at_byte: int | None = None
    """The byte at which the dead node's share ended and another's began; None if the layer did not go on so."""
    continued_from: str | None = None
    same_response: bool = False
    """Whether the client saw one answer, without a break."""
    gap_ms: float | None = None
    """Milliseconds for which the client got no byte of the layer, between the last of one node and the first of the
    next."""
    failover_ms: float | None = None
    """Milliseconds from the kill to the other node's answer, by the mirror's log."""

    @property
    def hit_mid_body(self) -> bool:
        """Whether the node had sent some but not all of the layer when it died."""
        return self.at_byte is not None and 0 < self.at_byte < self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How an image that no node had came to all of them at once."""

    image: str
    digest: str
    bytes: int
    blobs: int
    line_rate: float
    """MB per second that upstream gives all nodes together."""
    upstream_bytes: int
    """What upstream sent, by its own meter."""
    results: tuple[NodeResult, ...]
    tree: Mapping[str, Mapping[str, str]]
    """Of each blob, by digest: from whom each node had it in the end, another node or upstream."""

    @property
    def copies(self) -> float:
        """How many times the image upstream sent."""
        return self.upstream_bytes / self.bytes

    @property
    def alone_seconds(self) -> float:
        """For how long the line would be busy if each node fetched the image for itself."""
        return len(self.results) * self.bytes / MB / self.line_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All of it."""

    image: str
    digest: str
    bytes: int
    blobs: int
    rate_limit: float
    """MB per second that each pull of phase 1 was held to; 0 for none."""
    results: tuple[NodeResult, ...]
    joiner: str | None
    """The node that joined in phase 2."""
    kill: Kill | None
    arrival: Arrival | None
    """Of phase 3; None if a pull had failed before."""
    reverified: int
    """Blobs and manifests, over all layouts, that were hashed again at the end and are right."""
    expected: int
    """How many there should be."""
    seconds: float


def problems(outcome: Outcome) -> list[str]:
    """Return what was not right, one line each; empty if all was."""
    found = [line for result in outcome.results for line in _of_node(result)]
    kill = outcome.kill
    if kill is None:
        found.append("no node was killed")
    elif not kill.hit_mid_body:
        found.append(
            f"the kill of {kill.node} did not hit the middle of {kill.layer}: its bytes were all on their way"
        )
    elif not kill.same_response:
        found.append(f"{kill.layer} did not go on within the same response")
    if outcome.arrival is None:
        found.append("nobody pulled the image that no node had")
    else:
        found += _failures(outcome.arrival.results)
    if outcome.reverified != outcome.expected:
        found.append(
            f"{outcome.expected - outcome.reverified} of {outcome.expected} digests are missing or wrong at the end"
        )
    return found


def _failures(results: Iterable[NodeResult]) -> list[str]:
    return [f"{result.node}: {result.error}" for result in results if result.error]


def _of_node(result: NodeResult) -> list[str]:
    found = _failures([result])
    if result.upstream_requests:
        found.append(f"{result.node}: {result.upstream_requests} requests would have gone upstream")
    if (
        not result.error
        and not result.resumed
        and sum(result.from_peers.values()) != result.fetched
    ):
        logged = sum(result.from_peers.values())
        found.append(
            f"{result.node}: its log counts {logged} bytes from peers, its pull {result.fetched}"
        )
    return found
