"""Starts a cluster and keeps it until Ctrl-C: `python -m tests.kubernetes [--install]`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from contextlib import suppress

from tests.kubernetes.built import reason_to_skip
from tests.kubernetes.cluster import CONTAINERDS, Cluster, start_cluster
from tests.support.processes import end_in_good_order


async def main(nodes: int, *, is_installed: bool) -> None:
    """Start it, say how it is used, and wait."""
    end_in_good_order()  # for SIGTERM, as asyncio.run does for SIGINT
    print("starting; the programs are built first if they are not there yet", flush=True)
    async with start_cluster(nodes=nodes) as cluster:
        print("\n".join(f"{seconds:6.1f} s  {step}" for step, seconds in cluster.seconds.items()))
        print(_usage(cluster), flush=True)
        if is_installed:
            print(f"{await cluster.install():6.1f} s  chart installed", flush=True)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        began = time.monotonic()
        print("taking it away", flush=True)
    print(f"{time.monotonic() - began:6.1f} s  taken away")


def _usage(cluster: Cluster) -> str:
    nodes = [
        f"{node.name}: containerd {node.containerd}, {node.address}, enter it with\n"
        f"  nsenter --target={node.first_process} --mount --pid --net --uts --ipc --cgroup bash"
        for node in cluster.nodes
    ]
    return "\n".join(
        [
            *nodes,
            f"alias kubectl='{cluster.command('kubectl')}'",
            f"alias helm='{cluster.command('helm')}'",
            f"logs and disks: {cluster.folder}",
            "Ctrl-C takes it all away",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description=__doc__)
    parser.add_argument(
        "--nodes", type=int, default=len(CONTAINERDS), help="how many (default: %(default)s)"
    )
    parser.add_argument("--install", action="store_true", help="install the chart as well")
    options = parser.parse_args()
    if reason := reason_to_skip():
        sys.exit(reason)
    # A shell that starts a program in the background has it ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(options.nodes, is_installed=options.install))
