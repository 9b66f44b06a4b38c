"""Write the page of all bounds, from the program's constants: `python -m tests.docs.bounds`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from spegel_py.admin.web import viewers
from spegel_py.mirror import peer_lists, verification
from spegel_py.oci import manifest
from spegel_py.oci.range import MAX_PARTS
from spegel_py.preheat import preheat_job, preheat_jobs, preheat_list, preheat_responder
from spegel_py.registry import (
    access_check,
    connection,
    connection_table,
    server,
    verdict_memory,
)
from spegel_py.replicas import image_heat
from spegel_py.routing.base import MAX_REQUEST, MAX_RESPONSE
from spegel_py.routing.libp2p import (
    bounds,
    dialling,
    failure_detector,
    frames,
    holders,
    kademlia,
    location,
    member_messages,
    peer_records,
    records,
)
from spegel_py.telemetry import pull_log
from spegel_py.transfer import exchange, tls_transport

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "bounds.md"
_VALUES = PAGE.parents[2] / "deploy" / "helm" / "spegel-py" / "values.yaml"

IDLE = 135
"""MB of an idle node with four peers, as `make chaos` measures it."""
CONNECTION = 20_000
"""Bytes of an HTTP connection, its refused head included.

Measured with 300 heads in tests/unit/registry/test_heads.py.
"""
PEERS = 120
"""Peers for which the page says how many different keys fit into the index."""
LOST = 1.5
"""Factor by which the memory of the index exceeds its keys and bits: what the allocator loses
(measured: `python -m tests.benchmarks.record_table --distinct 400000`)."""
_HEAD = """\
# Bounds

<!-- Made by `make docs` from the program's own constants. -->

A node never holds more than this for its peers, clients and files. Bounds against strangers are by
address, because an identity costs nothing. On loopback, where tests run whole clusters, they are by
identity.

| subject | bound | module |
|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Bound:
    """One bound: what it is of, its value as people read it, and the module that has it."""

    what: str
    value: str
    module: str


def _bounds() -> Iterator[Bound]:
    registry = connection_table.ConnectionLimits()
    fields = f"{server.MAX_HEADERS} fields of {_size(server.MAX_FIELD)}"
    head = f"{_size(connection.MAX_HEAD)}, {fields}, {connection.HEAD:.0f} s"
    yield Bound(
        "HTTP connections from one address (IPv6: one /64)",
        f"{registry.per_address:,}",
        "registry.connection_table",
    )
    yield Bound(
        "HTTP connections from all other hosts",
        f"{registry.overall:,}",
        "registry.connection_table",
    )
    yield Bound(
        "HTTP connections kept for this host", f"{registry.own:,}", "registry.connection_table"
    )
    yield Bound(
        "Half-closed HTTP connections", f"{connection.MAX_LINGERING}", "registry.connection"
    )
    yield Bound("Head of a request", head, "registry.connection, registry.server")
    yield Bound(
        "Bytes that a client with TLS sends ahead, during a body",
        _size(tls_transport.MAX_HELD),
        "transfer.tls_transport",
    )
    yield Bound("Ranges of one request", f"{MAX_PARTS}", "oci.range")
    yield Bound("Head of a peer's answer", _size(exchange.MAX_HEAD), "transfer.exchange")
    yield Bound("Manifest", _size(manifest.MAX_MANIFEST), "oci.manifest")
    yield Bound(
        "Blob that is held until it is verified",
        _size(verification.MAX_BUFFERED),
        "mirror.verification",
    )
    yield Bound("All bodies that are held", _size(verification.MEMORY_LIMIT), "mirror.verification")
    yield Bound(
        "Lists of tags or referrers that are put together",
        f"{peer_lists.LISTS}, each from {peer_lists.PEERS} peers, of {_size(peer_lists.MAX_BODY)}",
        "mirror.peer_lists",
    )
    yield Bound(
        "Verdicts about private images, those kept on disk",
        f"{verdict_memory.MAX_VERDICTS:,}, {verdict_memory.MAX_KEPT:,}",
        "registry.verdict_memory",
    )
    yield Bound(
        "Requests to registries about private images",
        f"{access_check.MAX_REQUESTS} at a time, {access_check.TIMEOUT:.0f} s each",
        "registry.access_check",
    )
    yield Bound(
        "libp2p connections from one address",
        f"{bounds.MAX_CONNECTIONS_PER_ADDRESS}",
        "routing.libp2p.bounds",
    )
    yield Bound("Peers at one address", f"{bounds.MAX_PEERS_PER_ADDRESS}", "routing.libp2p.bounds")
    yield Bound("Streams of a libp2p connection", f"{bounds.MAX_STREAMS}", "routing.libp2p.bounds")
    yield Bound(
        "Bytes of a libp2p connection that nobody reads",
        _size(bounds.MAX_UNREAD),
        "routing.libp2p.bounds",
    )
    yield Bound("Announce frame", _size(frames.MAX_FRAME), "routing.libp2p.frames")
    yield Bound(
        "Keys of a peer", f"{peer_records.MAX_KEYS_PER_PEER:,}", "routing.libp2p.peer_records"
    )
    yield Bound(
        "Records of one address", f"{records.MAX_RECORDS_PER_ADDRESS:,}", "routing.libp2p.records"
    )
    different = holders.MAX_INDEX // key_cost()
    yield Bound(
        "Different keys of all peers",
        f"{holders.MAX_INDEX / 1e6:.0f} MB, {different:,} keys of {PEERS} peers",
        "routing.libp2p.holders",
    )
    yield Bound(
        "Message about a member, and its answer",
        f"{1 + member_messages.MAX_ID} bytes, 1 byte",
        "routing.libp2p.member_messages",
    )
    yield Bound(
        "Members whose word about a silent peer is remembered",
        f"{failure_detector.CONFIRMATIONS}",
        "routing.libp2p.failure_detector",
    )
    yield Bound("Kademlia message", _size(kademlia.MAX_MESSAGE), "routing.libp2p.kademlia")
    yield Bound(
        "Kademlia messages of one address",
        f"{bounds.MESSAGES:,} at once, then {bounds.MESSAGES_PER_SECOND:,} a second",
        "routing.libp2p.bounds",
    )
    yield Bound(
        "Contacts of one answer",
        f"{kademlia.CLOSEST}, with {kademlia.MAX_ADDRESSES} addresses each",
        "routing.libp2p.kademlia",
    )
    yield Bound(
        "Dials at a time",
        f"{dialling.MAX_DIALS}, half of them for what peers say of others",
        "routing.libp2p.dialling",
    )
    yield Bound(
        "Dials to find one peer's own address", f"{location.MAX_DIALS}", "routing.libp2p.location"
    )
    yield Bound(
        "Peers whose addresses are remembered", f"{dialling.MAX_KNOWN:,}", "routing.libp2p.dialling"
    )
    yield Bound(
        "Question between nodes, and its answer",
        f"{_size(MAX_REQUEST)}, {_size(MAX_RESPONSE)}",
        "routing.base",
    )
    yield Bound(
        "Records of decisions",
        f"{pull_log.LIMIT:,}, {_size(pull_log.MAX_BYTES)}",
        "telemetry.pull_log",
    )
    yield Bound(
        "Digests whose pulls are counted, for the heat of images",
        f"{image_heat.MAX_COUNTED:,}",
        "replicas.image_heat",
    )
    yield Bound(
        "Images to pre-heat that other nodes ask for",
        f"{preheat_responder.MAX_PENDING} waiting, {preheat_responder.MAX_PENDING_PER_PEER} of one "
        f"node; {preheat_responder.MAX_REMEMBERED:,} ended",
        "preheat.preheat_responder",
    )
    yield Bound(
        "Pre-heat jobs, and images of the list",
        f"{preheat_jobs.MAX_RUNNING} running, {preheat_job.KEPT} ended; "
        f"{preheat_list.MAX_ENTRIES:,}",
        "preheat.preheat_jobs, preheat.preheat_list",
    )
    yield Bound("Viewers of the status page", f"{viewers.LIMIT}", "web.viewers")


def memory() -> list[tuple[str, float]]:
    """Return the users of memory, each with the MB that one attacking address can add at most."""
    registry, metrics = (
        connection_table.ConnectionLimits(),
        connection_table.ConnectionLimits.of(connection_table.METRICS),
    )
    return [
        ("an idle node", IDLE),
        ("bodies that are held", verification.MEMORY_LIMIT / 1e6),
        ("lists of peers", peer_lists.LISTS * peer_lists.PEERS * peer_lists.MAX_BODY / 1e6),
        ("HTTP connections", (registry.per_address + metrics.per_address) * CONNECTION / 1e6),
        ("records", records.MAX_RECORDS_PER_ADDRESS * key_cost() / 1e6),
        ("streams that nobody reads", bounds.MAX_CONNECTIONS_PER_ADDRESS * bounds.MAX_UNREAD / 1e6),
        ("frames that are being read", bounds.MAX_PEERS_PER_ADDRESS * 4 * frames.MAX_FRAME / 1e6),
    ]


def key_cost() -> int:
    """Return the bytes of a key that PEERS peers may hold."""
    return holders.KEY_COST + PEERS // 8


def limit() -> float:
    """Return the chart's memory limit in MB."""
    text = yaml.safe_load(_VALUES.read_text())["resources"]["limits"]["memory"]
    return float(text.removesuffix("Mi")) * 1.048576


def render() -> str:
    """Return the page."""
    rows = "".join(f"| {one.what} | {one.value} | `{one.module}` |\n" for one in _bounds())
    shares = "".join(f"| {what} | {megabytes:.0f} |\n" for what, megabytes in memory())
    total = sum(megabytes for _, megabytes in memory())
    all_records, all_connections = (
        holders.MAX_INDEX * LOST,
        (connection_table.REGISTRY + connection_table.METRICS) * CONNECTION,
    )
    return (
        f"{_HEAD}{rows}\n## Sum\n\n"
        "One address can make a node hold this much, with everything at its bound at once:\n\n"
        f"| | MB |\n|---|---|\n{shares}| **together** | **{total:.0f}** |\n\n"
        f"The chart's limit is {limit():.0f} MB. Several addresses can do more: all records\n"
        f"together take {all_records / 1e6:.0f} MB, all connections "
        f"{all_connections / 1e6:.0f} MB. "
        "[`make chaos`](../benchmarks/chaos.md#a-rogue-peer)\n"
        "has a rogue peer that tries every bound.\n"
    )


def _size(count: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:g} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":
    PAGE.write_text(render())
