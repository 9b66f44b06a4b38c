"""The result as a table for people and as JSON for programs. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from spegel_py.demo.demo_image import shown
from spegel_py.demo.demo_result import DemoResult, FreshImageResult, NodeResult, problems
from spegel_py.demo.source_tree import UPSTREAM

ONCE = 1.05
"""Copies of the image up to which upstream counts as having sent it once.

A manifest or a small part may have been sent twice.
"""


def as_json(outcome: DemoResult) -> dict[str, object]:
    """Return the result as JSON values; `ok` is true if the list `problems` is empty."""
    wrong = problems(outcome)
    kill, arrival = outcome.kill, outcome.arrival
    return {
        "ok": not wrong,
        "problems": wrong,
        "image": {
            "name": outcome.image,
            "digest": outcome.digest,
            "bytes": outcome.bytes,
            "blobs": outcome.blobs,
        },
        "rate_limit_mb_s": outcome.rate_limit,
        "nodes": [_node(result) for result in outcome.results],
        "joiner": outcome.joiner,
        "kill": dataclasses.asdict(kill) | {"hit_mid_body": kill.hit_mid_body} if kill else None,
        "upstream_requests": sum(result.upstream_requests for result in outcome.results),
        "arrival": _arrival(arrival) if arrival else None,
        "reverified": outcome.reverified,
        "expected": outcome.expected,
        "seconds": round(outcome.seconds, 3),
    }


def _node(result: NodeResult) -> dict[str, object]:
    exact = {
        "from_peers": dict(result.from_peers),
        "seconds": round(result.seconds, 3),
        "mb_s": round(result.rate, 1),
    }
    return dataclasses.asdict(result) | exact


def _arrival(arrival: FreshImageResult) -> dict[str, object]:
    return {
        "image": {
            "name": arrival.image,
            "digest": arrival.digest,
            "bytes": arrival.bytes,
            "blobs": arrival.blobs,
        },
        "line_rate_mb_s": arrival.line_rate,
        "upstream_bytes": arrival.upstream_bytes,
        "copies": round(arrival.copies, 3),
        "nodes": [_node(result) for result in arrival.results],
        "tree": {digest: dict(sources) for digest, sources in arrival.tree.items()},
    }


def as_table(outcome: DemoResult) -> Group:
    """Return the result as tables and sentences."""
    tables = [_table(_title(outcome), outcome.results, outcome.joiner)]
    if outcome.arrival:
        tables.append(_table(_title(outcome.arrival), outcome.arrival.results))
    return Group(*tables, *(Text(line) for line in _sentences(outcome)))


def _title(shared: DemoResult | FreshImageResult) -> str:
    return f"{shared.image}  {shown(shared.bytes)}  {shared.blobs} blobs"


def _table(title: str, results: Sequence[NodeResult], joiner: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("node")
    table.add_column("bytes from each peer")
    for name in ("upstream requests", "seconds", "MB/s", "digests verified"):
        table.add_column(name, justify="right")
    for result in results:
        sources = dict(sorted(result.from_peers.items()))
        if result.from_upstream:
            sources = {UPSTREAM: result.from_upstream} | sources
        peers = ", ".join(f"{name}: {shown(count)}" for name, count in sources.items())
        name = f"{result.node} (joined late)" if result.node == joiner else result.node
        numbers = (
            str(result.upstream_requests),
            f"{result.seconds:.2f}",
            f"{result.rate:.0f}",
            str(result.verified),
        )
        table.add_row(name, peers or "nothing", *numbers)
    return table


def _sentences(outcome: DemoResult) -> list[str]:
    found = []
    if outcome.rate_limit:
        found.append(
            f"Pulls of phase 1 were held to {outcome.rate_limit:g} MB/s each (--rate 0: as fast "
            "as it goes)."
        )
    kill = outcome.kill
    if kill and kill.at_byte is not None and kill.gap_ms is not None:
        found.append(
            f"{kill.node} (pid {kill.pid}) was killed while sending layer {kill.layer[:19]}…: "
            "its last byte was "
            f"{kill.at_byte} of {kill.size}; {kill.continued_from} went on within the same "
            "response; for "
            f"{kill.gap_ms:.1f} ms no byte reached the client."
        )
    if outcome.arrival:
        found.append(_came(outcome.arrival))
    found.append(
        f"{outcome.reverified} of {outcome.expected} digests over all layouts hashed again at the "
        "end."
    )
    return found + [f"WRONG: {line}" for line in problems(outcome)]


def _came(arrival: FreshImageResult) -> str:
    """Return a sentence on the bytes that upstream sent, and would have sent without sharing."""
    again = (
        ""
        if arrival.copies < ONCE
        else " (some of it more than once: a node had nobody to take it from)"
    )
    return (
        f"{arrival.image}, which no node had: upstream sent {arrival.copies:.2f} × the image for "
        f"{len(arrival.results)} nodes{again}, at {arrival.line_rate:g} MB/s; had each node "
        "fetched it for itself, "
        f"that would have taken {arrival.alone_seconds:.1f} s."
    )
