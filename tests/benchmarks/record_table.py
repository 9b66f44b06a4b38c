"""A record table in a process of its own, told by many peers.

`python -m tests.benchmarks.record_table` prints one JSON object: the memory that the records take,
and the seconds of each operation.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator

from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p import frames, router
from spegel_py.routing.libp2p.frames import SetPart
from spegel_py.routing.libp2p.records import RecordTable
from tests.benchmarks import machine

PEERS, KEYS, DISTINCT = 120, 20_000, 50_000
LOOKUPS = 5_000
LIMIT = 8
TIMES = (
    "whole set",
    "lookup, all hold it",
    "lookup, few hold it",
    "lookup, nobody holds it",
    "delta of 10",
    "in step",
    "departure of a half",
    "upkeep after it",
)
"""The figures that are seconds."""


def key_of(number: int) -> bytes:
    """Return the key of a number."""
    return hashlib.sha256(str(number).encode()).digest()


def told(table: RecordTable, number: int, payloads: list[bytes]) -> None:
    """Receive the frames of one peer, as from the wire."""
    peer = Peer(f"peer{number}", f"10.0.{number // 250}.{number % 250}", 5000)
    table.peer_connected(peer.id)
    table.hello(peer.id, peer, interval=600.0, now=time.monotonic())
    for payload in payloads:
        frame = frames.decode(payload)
        assert isinstance(frame, SetPart)
        table.stage(peer.id, frame.keys, first=frame.first)
        if frame.last:
            table.commit(peer.id, complete=frame.complete)


def payloads_of(keys: list[bytes]) -> list[bytes]:
    """Return the frames that announce a whole set, without their lengths."""
    return [frames.encode(part)[4:] for part in frames.set_parts(keys, complete=True)]


def timed(run: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def measure(peers: int, keys: int, distinct: int) -> dict[str, float]:
    """Fill a table and return the figures. Half of each peer's keys are those that all hold."""
    assert router  # a node has libp2p loaded
    rng = random.Random(1)
    table = RecordTable(rng=rng)

    def sets() -> Iterator[list[bytes]]:
        for _ in range(peers):
            own = {*range(keys // 2), *rng.sample(range(keys // 2, distinct), keys - keys // 2)}
            yield payloads_of([key_of(number) for number in own])

    gc.collect()
    before = machine.memory(os.getpid())
    telling = 0.0
    for number, payloads in enumerate(sets()):
        telling += timed(lambda n=number, p=payloads: told(table, n, p))  # type: ignore[misc]
    del payloads
    gc.collect()
    after = machine.memory(os.getpid())
    now = time.monotonic()
    common, rare, nobody = key_of(0), key_of(keys), key_of(-1)
    delta = [key_of(-2 - number) for number in range(10)]
    held = table.members(now)[0].keys

    def come_and_go() -> None:
        table.add("peer0", delta)
        table.remove("peer0", delta)

    def leave() -> None:
        for number in range(peers // 2):
            table.peer_disconnected(f"peer{number}")

    figures = {
        "records": float(table.size()),
        "RSS before": before.rss,
        "RSS": after.rss,
        "gained": after.rss - before.rss,
        "whole set": telling / peers,
        "lookup, all hold it": timed(lambda: table.providers(common, now, limit=LIMIT), LOOKUPS),
        "lookup, few hold it": timed(lambda: table.providers(rare, now, limit=LIMIT), LOOKUPS),
        "lookup, nobody holds it": timed(lambda: table.providers(nobody, now), LOOKUPS),
        "certain miss": timed(lambda: table.knows_all(now), LOOKUPS),
        "delta of 10": timed(come_and_go, 500),
        "in step": timed(lambda: table.in_step("peer0", count=held, check=0), 500),
    }
    figures["departure of a half"] = timed(leave)
    figures["upkeep after it"] = timed(lambda: table.expire(now))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.record_table")
    parser.add_argument("--peers", type=int, default=PEERS)
    parser.add_argument("--keys", type=int, default=KEYS)
    parser.add_argument("--distinct", type=int, default=DISTINCT)
    options = parser.parse_args()
    print(json.dumps(measure(options.peers, options.keys, options.distinct)))


if __name__ == "__main__":
    main()
