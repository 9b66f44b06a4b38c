"""`make demo-kubernetes`: the demonstration of deploy/demo/steps.sh on a real Kubernetes, without
Docker or kind.

Everything is in network namespaces of its own, opens nothing to the outside, and is taken away at
the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress

from tests.deploy.chart import ROOT
from tests.kubernetes import addresses
from tests.kubernetes.built import reason_to_skip
from tests.kubernetes.cluster import Cluster, start_cluster
from tests.support import images
from tests.support.processes import end_in_good_order, run

STEPS = ROOT / "deploy" / "demo" / "steps.sh"
IMAGE = "demo/app:1"
CUT_OFF = "cut-off"
"""The argument with which steps.sh has this program take the registry away: it stops the process
named after it.
"""


async def main() -> int:
    """Run the demonstration; return its exit status."""
    end_in_good_order()  # for SIGTERM, as asyncio.run does for SIGINT
    print(
        "== starting a Kubernetes of three nodes (its programs are built first, if they are not "
        "there yet)",
        flush=True,
    )
    began = time.monotonic()
    async with start_cluster() as cluster:
        for node in cluster.nodes:
            print(f"{node.name}: containerd {node.containerd}, {node.address}")
        print(f"all nodes are Ready after {time.monotonic() - began:.0f} s", flush=True)
        app = images.image("kubernetes-demo", layers=10, size=2_000_000, is_runnable=True)
        reference = await cluster.push(IMAGE, app)
        status = await _steps(cluster, reference)
        print("\n== taking it all away", flush=True)
    return status


async def _steps(cluster: Cluster, image: str) -> int:
    """Run the steps that the demonstration on kind runs, too."""
    names = [node.name for node in cluster.nodes]
    process = await asyncio.create_subprocess_exec(
        *(str(STEPS), image, *names),
        stdin=asyncio.subprocess.DEVNULL,
        env=dict(os.environ) | _environment(cluster),
        start_new_session=True,  # Ctrl-C reaches this program alone, which then ends the steps
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


def _environment(cluster: Cluster) -> dict[str, str]:
    values = {
        "image.repository": f"{addresses.REGISTRY}/spegel-py",
        "spegel.mirroredRegistries[0]": f"http://{addresses.REGISTRY}",
        "spegel.prependExisting": "true",
    }
    return {
        "KUBECTL": cluster.command("kubectl"),
        "HELM": cluster.command("helm"),
        "VALUES": " ".join(f"--set {name}={value}" for name, value in values.items()),
        "CUT_OFF": (
            f"{sys.executable} -m tests.kubernetes.demo {CUT_OFF} {cluster.registry.process.pid}"
        ),
    }


async def _cut_off(pid: int) -> None:
    """Stop the registry, for all nodes at once; it may be stopped already."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    await run("tail", f"--pid={pid}", "--follow", "/dev/null", deadline=10.0)


if __name__ == "__main__":
    if sys.argv[1:2] == [CUT_OFF]:
        asyncio.run(_cut_off(int(sys.argv[2])))
        sys.exit()
    if reason := reason_to_skip():
        sys.exit(f"demo-kubernetes: {reason}")
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that starts it in the background ignores it
    try:
        sys.exit(asyncio.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
