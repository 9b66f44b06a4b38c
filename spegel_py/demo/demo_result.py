"""The result of a demonstration, and the problems found in it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spegel_py.demo.demo_image import MB


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """The result of one node's pull; bytes are those of manifests, configs and layers."""

    node: str
    from_peers: Mapping[str, int] = field(default_factory=dict)
    """Bytes by the name of the sending node, as this node's log counts them."""
    from_upstream: int = 0
    """Bytes that the client fetched from the image's own registry."""
    fetched: int = 0
    """Bytes that the pull received, as the client counts them."""
    upstream_requests: int = 0
    """Requests that containerd would send to the image's own registry.

    The mirror failed, or answered 404.
    """
    resumed: int = 0
    """Number of responses that broke off and were requested again."""
    seconds: float = 0.0
    verified: int = 0
    """Number of digests that the pull verified."""
    error: str | None = None
    """The reason why the pull failed; None if it succeeded."""

    @property
    def rate(self) -> float:
        """MB per second."""
        return self.fetched / MB / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKill:
    """The kill of a node while it sent a layer, and its effect on that layer."""

    node: str
    pid: int
    layer: str
    size: int
    client_byte: int
    """Bytes of the layer that the client had received when the signal was sent."""
    at_byte: int | None = None
    """Byte at which another node continued the dead node's body; None if no node did."""
    continued_from: str | None = None
    same_response: bool = False
    """True if the client received one response without a break."""
    gap_ms: float | None = None
    """Milliseconds between the dead node's last byte and the next node's first, at the client."""
    failover_ms: float | None = None
    """Milliseconds from the kill to the other node's response, by the mirror's log."""

    @property
    def hit_mid_body(self) -> bool:
        """True if the node had sent a part of the layer, but not all, when it died."""
        return self.at_byte is not None and 0 < self.at_byte < self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshImageResult:
    """The result of phase 3: all nodes pulled an image at once that no node had."""

    image: str
    digest: str
    bytes: int
    blobs: int
    line_rate: float
    """MB per second that upstream sends to all nodes together."""
    upstream_bytes: int
    """Bytes that upstream sent, by its own metric."""
    results: tuple[NodeResult, ...]
    tree: Mapping[str, Mapping[str, str]]
    """By digest: the last source of the blob at each node, another node or upstream."""

    @property
    def copies(self) -> float:
        """Copies of the image that upstream sent."""
        return self.upstream_bytes / self.bytes

    @property
    def alone_seconds(self) -> float:
        """Seconds that upstream would need if each node fetched the image for itself."""
        return len(self.results) * self.bytes / MB / self.line_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result of all phases."""

    image: str
    digest: str
    bytes: int
    blobs: int
    rate_limit: float
    """MB per second that each pull of phase 1 was limited to; 0 for no limit."""
    results: tuple[NodeResult, ...]
    joiner: str | None
    """The node that joined in phase 2."""
    kill: NodeKill | None
    arrival: FreshImageResult | None
    """The result of phase 3; None if a pull failed before it."""
    reverified: int
    """Blobs and manifests in all layouts whose hash was right at the end."""
    expected: int
    """Blobs and manifests that all layouts should have."""
    seconds: float


def problems(outcome: DemoResult) -> list[str]:
    """Return the problems, one line each; empty if all was right."""
    found = [line for result in outcome.results for line in _of_node(result)]
    kill = outcome.kill
    if kill is None:
        found.append("no node was killed")
    elif not kill.hit_mid_body:
        found.append(
            f"the kill of {kill.node} did not hit the middle of {kill.layer}: its bytes were all "
            "on their way"
        )
    elif not kill.same_response:
        found.append(f"{kill.layer} did not go on within the same response")
    if outcome.arrival is None:
        found.append("nobody pulled the image that no node had")
    else:
        found += _failures(outcome.arrival.results)
    if outcome.reverified != outcome.expected:
        found.append(
            f"{outcome.expected - outcome.reverified} of {outcome.expected} digests are missing "
            "or wrong at the end"
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
