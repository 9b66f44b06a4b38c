"""What came out of a demonstration: values, what is wrong with them, and how they are shown. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spegel_py.demo.content import MB, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """What one node's pull brought; bytes are those of manifests, configs and layers."""

    node: str
    from_peers: Mapping[str, int] = field(default_factory=dict)
    """Bytes by the name of the node they came from, as this node's log counts them."""
    fetched: int = 0
    """Bytes that its pull took in: what the client itself counted."""
    upstream_requests: int = 0
    """Requests that containerd would have taken to the image's own registry: its mirror gave 404, or failed."""
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
        found.append(f"the kill of {kill.node} did not hit the middle of {kill.layer}: its bytes were all on their way")
    elif not kill.same_response:
        found.append(f"{kill.layer} did not go on within the same response")
    if outcome.reverified != outcome.expected:
        found.append(
            f"{outcome.expected - outcome.reverified} of {outcome.expected} digests are missing or wrong at the end"
        )
    return found


def _of_node(result: NodeResult) -> list[str]:
    found = [f"{result.node}: {result.error}"] if result.error else []
    if result.upstream_requests:
        found.append(f"{result.node}: {result.upstream_requests} requests would have gone upstream")
    if not result.error and not result.resumed and sum(result.from_peers.values()) != result.fetched:
        logged = sum(result.from_peers.values())
        found.append(f"{result.node}: its log counts {logged} bytes from peers, its pull {result.fetched}")
    return found


def as_json(outcome: Outcome) -> dict[str, object]:
    """Return the outcome as JSON values; `ok` says whether nothing was wrong, `problems` what was."""
    wrong = problems(outcome)
    kill = outcome.kill
    return {
        "ok": not wrong,
        "problems": wrong,
        "image": {"name": outcome.image, "digest": outcome.digest, "bytes": outcome.bytes, "blobs": outcome.blobs},
        "rate_limit_mb_s": outcome.rate_limit,
        "nodes": [
            dataclasses.asdict(result)
            | {
                "from_peers": dict(result.from_peers),
                "seconds": round(result.seconds, 3),
                "mb_s": round(result.rate, 1),
            }
            for result in outcome.results
        ],
        "joiner": outcome.joiner,
        "kill": dataclasses.asdict(kill) | {"hit_mid_body": kill.hit_mid_body} if kill else None,
        "upstream_requests": sum(result.upstream_requests for result in outcome.results),
        "reverified": outcome.reverified,
        "expected": outcome.expected,
        "seconds": round(outcome.seconds, 3),
    }


def as_table(outcome: Outcome) -> Group:
    """Return the outcome for people."""
    table = Table(title=f"{outcome.image}  {shown(outcome.bytes)}  {outcome.blobs} blobs", title_justify="left")
    table.add_column("node")
    table.add_column("bytes from each peer")
    for name in ("upstream requests", "seconds", "MB/s", "digests verified"):
        table.add_column(name, justify="right")
    for result in outcome.results:
        peers = ", ".join(f"{name}: {shown(count)}" for name, count in sorted(result.from_peers.items()))
        name = f"{result.node} (joined late)" if result.node == outcome.joiner else result.node
        numbers = (str(result.upstream_requests), f"{result.seconds:.2f}", f"{result.rate:.0f}", str(result.verified))
        table.add_row(name, peers or "nothing", *numbers)
    return Group(table, *(Text(line) for line in _sentences(outcome)))


def _sentences(outcome: Outcome) -> list[str]:
    found = []
    if outcome.rate_limit:
        found.append(f"Pulls of phase 1 were held to {outcome.rate_limit:g} MB/s each (--rate 0: as fast as it goes).")
    kill = outcome.kill
    if kill and kill.at_byte is not None and kill.gap_ms is not None:
        found.append(
            f"{kill.node} (pid {kill.pid}) was killed while sending layer {kill.layer[:19]}…: its last byte was "
            f"{kill.at_byte} of {kill.size}; {kill.continued_from} went on within the same response; for "
            f"{kill.gap_ms:.1f} ms no byte reached the client."
        )
    found.append(f"{outcome.reverified} of {outcome.expected} digests over all layouts hashed again at the end.")
    return found + [f"WRONG: {line}" for line in problems(outcome)]
