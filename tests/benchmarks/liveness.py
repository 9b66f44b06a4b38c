"""What liveness costs: announcements, pings and checks of a node, simulated to 1,000 nodes and
measured with ten.

`python -m tests.benchmarks.liveness` prints both; `--simulate` leaves the measuring out, which
needs root: the nodes get a network of their own, whose loopback counts their bytes. The simulation
runs the real scheduler, the real rule for the interval and the real frames; around them it adds
what the layers below add to each message.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from spegel_py.health.check_scheduler import BUDGET, CheckScheduler
from spegel_py.health.monitor import LIVEZ, TICK
from spegel_py.routing.base import Peer
from spegel_py.routing.libp2p.failure_detector import PERIOD
from spegel_py.routing.libp2p.frames import Refresh, encode
from spegel_py.routing.libp2p.sharing import RARE_PER_SECOND, RARELY, next_interval
from spegel_py.transfer.base import Deadlines
from spegel_py.transfer.client import HTTPUpstream
from spegel_py.transfer.exchange import HTTPExchange
from tests.benchmarks import machine, nodes
from tests.support import images

SIZES = (2, 10, 50, 100, 200, 500, 1000)
ANNOUNCE, HEALTH = 4.0, 10.0
"""The defaults of both intervals, in seconds."""

PACKET = 66
"""Bytes of Ethernet, IPv4 and TCP with timestamps around each message, and of the acknowledgement
that comes back.
"""

SECURED = 12 + 2 + 16
"""Bytes that yamux and Noise add to a frame."""

PING = 12 + 12 + 16 + 2
"""Bytes of a ping, or its answer: a header of yamux, encrypted."""

ANSWER = 195
"""Bytes of a node's answer to `/livez`, head and body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one node sends and handles in a second; every node is asked as often as it asks."""

    nodes: int
    interval: float
    announced: float
    pinged: float
    checked: float
    messages: float

    @property
    def total(self) -> float:
        return self.announced + self.pinged + self.checked


def simulate(count: int, *, seconds: float = 600.0, seed: int = 1) -> Cost:
    """Return what a node of a cluster of so many costs when nothing is pulled."""
    peers = [Peer(f"p{number}", "10.0.0.1", number + 1) for number in range(count - 1)]
    rarely = RARELY * ANNOUNCE
    interval = next_interval(rarely, base=rarely, peers=len(peers), per_second=RARE_PER_SECOND)
    pings = 1 / PERIOD
    refreshes = len(peers) / interval
    checks = _checks(peers, seconds, seed) / seconds
    refresh = len(encode(Refresh(0, 0))) + SECURED + PACKET
    return Cost(
        nodes=count,
        interval=interval,
        announced=refreshes * (refresh + PACKET),  # its own, and the acknowledgements of others'
        pinged=pings * 2 * (PING + PACKET),  # its own, and its answers
        checked=checks * (_request() + ANSWER + 4 * PACKET),
        messages=2 * refreshes + 4 * pings + 4 * checks,
    )


def _checks(peers: Sequence[Peer], seconds: float, seed: int) -> int:
    """Return the checks in so many seconds, once each peer was checked for the first time."""
    scheduler = CheckScheduler(interval=HEALTH, random=Random(seed))
    scheduler.set_members(peers, 0.0)
    begin = int(len(peers) * HEALTH / TICK)
    for tick in range(begin):
        scheduler.due(tick * TICK, BUDGET)
    ticks = range(begin, begin + int(seconds / TICK))
    return sum(len(scheduler.due(tick * TICK, BUDGET)) for tick in ticks)


def _request() -> int:
    """Return the bytes of a check's request, as the client writes it."""
    upstream = HTTPUpstream(deadlines=Deadlines(), is_copying=True)
    headers = upstream._headers(Peer("p", "10.100.100.100", 5000), LIVEZ)
    return len(HTTPExchange(method="GET", target=LIVEZ.target, headers=headers).request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one node sent (bytes per second) and used (% of a core), on average."""

    sent: float
    cpu: float


async def measure(count: int, *, seconds: float, flags: Mapping[str, object]) -> Measured:
    """Run so many nodes, leave them alone, and return what each costs."""
    contents = [
        {f"registry.test/bench/n{number}:1": images.image(f"n{number}")} for number in range(count)
    ]
    async with nodes.cluster(contents, flags=flags) as cluster:
        await nodes.told(cluster, (count - 1) * sum(nodes.records(each) for each in contents))
        await asyncio.sleep(10)
        before, already, began = (
            [machine.cpu_seconds(node.pid) for node in cluster],
            _loopback(),
            time.monotonic(),
        )
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        sent = (_loopback() - already) / passed / count
        used = [
            machine.cpu_seconds(node.pid) - early
            for node, early in zip(cluster, before, strict=True)
        ]
    return Measured(sent=sent, cpu=100 * statistics.fmean(used) / passed)


def _loopback() -> int:
    """Return the bytes that were sent over loopback so far."""
    lines = (
        Path("/proc/self/net/dev").read_text().splitlines()
    )  # /sys shows the network it was mounted in
    [counters] = [
        line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:")
    ]
    return int(counters[8])


def _show_simulation() -> None:
    print("nodes  interval  announce  pings  health   sum B/s  messages/s")
    for cost in map(simulate, SIZES):
        print(
            f"{cost.nodes:5}  {cost.interval:7.1f}s  {cost.announced:8.0f}  {cost.pinged:5.0f}  "
            f"{cost.checked:6.0f}  "
            f"{cost.total:8.0f}"
            f"  {cost.messages:10.1f}"
        )


def _show_measurement(count: int, seconds: float) -> None:
    quiet = {"health-interval": "600s"}
    usual = asyncio.run(measure(count, seconds=seconds, flags={}))
    rest = asyncio.run(measure(count, seconds=seconds, flags=quiet))
    print(
        f"{count} nodes, {seconds:.0f} s: {usual.sent:.0f} B/s and {usual.cpu:.2f} % of a core each"
    )
    print(f"without checks: {rest.sent:.0f} B/s and {rest.cpu:.2f} %")
    print(f"checks alone: {usual.sent - rest.sent:.0f} B/s, {usual.cpu - rest.cpu:.2f} % of a core")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the simulation, and the measurement unless it is left out; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.liveness", description="Measure liveness."
    )
    parser.add_argument("--simulate", action="store_true", help="only simulate")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        _show_measurement(options.nodes, options.seconds)
        return 0
    _show_simulation()
    return 0 if options.simulate else _in_a_network_of_its_own(options)


def _in_a_network_of_its_own(options: argparse.Namespace) -> int:
    own = [sys.executable, "-m", __spec__.name, "--inside", "--nodes", str(options.nodes)]
    own += ["--seconds", str(options.seconds)]
    command = ["unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh", *own]
    return subprocess.run(command, check=False, env=dict(os.environ)).returncode


if __name__ == "__main__":
    raise SystemExit(main())
