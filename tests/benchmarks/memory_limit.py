"""One node within a memory limit: `python -m tests.benchmarks.memory_limit [--limit 128Mi]`.

The node runs beside a containerd with 20 images, in a control group of its own. As many routers as
`--peers` connect to it, and each announces `--keys` keys. The figures are what the kernel counts
for the group. Needs root, containerd and control groups of either version.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from spegel_py import values
from tests.benchmarks import client, machine, nodes
from tests.benchmarks.report import aligned
from tests.benchmarks.routers import free_ports
from tests.benchmarks.scale.fleet import HostProcess
from tests.benchmarks.scale.plan import Size
from tests.support.processes import Process, until

MB = 1_000_000
PER_PROCESS = 25
SETTLE = 20.0
"""Seconds after which joining and announcing are over."""
GROUPS = Path("/sys/fs/cgroup")
NAME = "spegel-py-memory-limit"


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that the kernel counts for a group, at most and now, and its kills."""

    most: int
    now: int
    kills: int


class LimitedGroup:
    """A control group with a memory limit, of version 1 or 2."""

    def __init__(self, limit: int) -> None:
        self._is_old = (GROUPS / "memory").is_dir()
        self._folder = GROUPS / "memory" / NAME if self._is_old else GROUPS / NAME
        self._folder.mkdir()
        name = "memory.limit_in_bytes" if self._is_old else "memory.max"
        (self._folder / name).write_text(str(limit))

    @property
    def procs(self) -> Path:
        """The file that takes the ids of processes."""
        return self._folder / "cgroup.procs"

    def usage(self) -> Usage:
        if self._is_old:
            names = ("memory.max_usage_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        else:
            names = ("memory.peak", "memory.current", "memory.events")
        most, now, events = ((self._folder / name).read_text() for name in names)
        kills = dict(line.split() for line in events.splitlines())["oom_kill"]
        return Usage(int(most), int(now), int(kills))

    def remove(self) -> None:
        self._folder.rmdir()


@contextmanager
def limited_group(limit: int) -> Iterator[LimitedGroup]:
    """Give a group for the block's processes, which have ended when the block is left."""
    group = LimitedGroup(limit)
    try:
        yield group
    finally:
        group.remove()


async def measure(*, limit: int, peers: int, keys: int, distinct: int) -> dict[str, str]:
    """Return the figures by name."""
    registry, router, metrics = free_ports(3)
    size = Size(routers=peers + 2, members=2, keys=keys, distinct=distinct)
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(nodes.containerd())
        group = stack.enter_context(limited_group(limit))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-limit-")))
        flags = {
            "containerd-sock": daemon.socket,
            "containerd-content-path": daemon.content_path,
            "bootstrap-kind": "static",
            "static-bootstrap-peers": f"/ip4/127.0.0.1/tcp/{router}",
            "registry-addr": f"127.0.0.1:{registry}",
            "router-addr": f"127.0.0.1:{router}",
            "metrics-addr": f"127.0.0.1:{metrics}",
            "data-dir": folder / "data",
        }
        options = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
        enter = f'echo $$ > {group.procs}; exec "$@"'
        command = ["sh", "-c", enter, "sh", sys.executable, "-m", "spegel_py", "registry"]
        node = Process(
            command=[*command, *options],
            log=folder / "node.log",
            environment={"PYTHONPATH": str(machine.ROOT)},
        )
        stack.push_async_callback(node.end)
        await node.start(lambda: client.answers(registry, "/readyz"), deadline=60.0)
        ports = free_ports(peers)
        hosts = [
            HostProcess(
                range(2 + begin, 2 + min(begin + PER_PROCESS, peers)),
                ports[begin : begin + PER_PROCESS],
                [router],
                size,
            )
            for begin in range(0, peers, PER_PROCESS)
        ]
        for host in hosts:
            stack.push_async_callback(host.kill)
        await asyncio.gather(*(host.start() for host in hosts))

        async def are_connected() -> bool:
            return await client.metric(metrics, "spegel_connected_peers") >= peers

        await until(are_connected, deadline=300.0, pause=0.5)
        for host in hosts:
            await host.do(do="announce")

        async def are_told() -> bool:
            return await client.metric(metrics, "spegel_records_held") >= peers * keys

        with suppress(TimeoutError):
            await until(are_told, deadline=300.0, pause=1.0)
        await asyncio.sleep(SETTLE)
        usage = group.usage()
        assert node.pid is not None, f"the node has ended:\n{node.output[-2000:]}"
        return {
            "limit": f"{limit / MB:.0f} MB",
            "connected peers": f"{await client.metric(metrics, 'spegel_connected_peers'):.0f}",
            "records held": f"{await client.metric(metrics, 'spegel_records_held'):,.0f}",
            "counted for the group, at most": f"{usage.most / MB:.0f} MB",
            "counted for the group, at rest": f"{usage.now / MB:.0f} MB",
            "RSS": f"{machine.memory(node.pid).rss:.0f} MB",
            "killed for want of memory": str(usage.kills),
        }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.memory_limit",
        description="Measure one node within a memory limit.",
    )
    parser.add_argument("--limit", default="128MiB", help="as in 128MiB")
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--keys", type=int, default=1000, help="keys of each peer")
    parser.add_argument("--distinct", type=int, default=5000, help="different keys of all peers")
    options = parser.parse_args(arguments)
    found = asyncio.run(
        measure(
            limit=values.size(MB, 1 << 40)(options.limit),
            peers=options.peers,
            keys=options.keys,
            distinct=options.distinct,
        )
    )
    print(aligned([("", "measured"), *found.items()]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
