"""What each package costs a node when it is loaded: memory and CPU, in the order of a start.

`python -m tests.benchmarks.footprint` loads one package after the other, as a node does, and prints
the table of docs/internals/footprint.md. A package counts with all that it loads, unless a package
before it has loaded that.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

STEPS = (
    ("asyncio, uvloop", ("uvloop",)),
    ("structlog", ("spegel_py", "structlog")),
    ("aiohttp, server side", ("aiohttp.web",)),
    ("prometheus-client", ("prometheus_client",)),
    ("cryptography", ("cryptography.hazmat.primitives.asymmetric.ed25519",)),
    ("h11, yarl, multidict", ("h11", "yarl")),
    ("spegel_py until `/livez`", ("spegel_py.commands.registry_command",)),
    ("containerd store: gRPC, protobuf", ("spegel_py.store.containerd",)),
    ("Trio", ("trio",)),
    ("py-libp2p, py-multiaddr", ("libp2p.host.basic_host", "libp2p.kad_dht.pb.kademlia_pb2")),
    ("spegel_py, libp2p side", ("spegel_py.routing.libp2p.service",)),
    ("doctor, once at the start", ("spegel_py.host.doctor",)),
)


def main() -> int:
    """Print the table; returns the exit status."""
    rows = list(_rows())
    from tests.benchmarks.report import aligned  # it loads what is measured here

    print(aligned([["loaded", "MB", "anonymous MB", "CPU ms", "modules"], *rows]))
    return 0


def _rows() -> Iterator[list[str]]:
    gc.disable()  # as a node does while it loads
    total = before = _used()
    yield _row("Python", before)
    for name, modules in STEPS:
        for module in modules:
            import_module(module)
        after = _used()
        yield _row(name, [late - early for late, early in zip(after, before, strict=True)])
        before = total = after
    yield _row("**all**", total)


def _used() -> list[float]:
    """Return MB, anonymous MB, CPU milliseconds, and modules."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    memory = [int(status[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon")]
    return [*memory, (usage.ru_utime + usage.ru_stime) * 1e3, float(len(sys.modules))]


def _row(name: str, used: list[float]) -> list[str]:
    return [name, f"{used[0]:.1f}", f"{used[1]:.1f}", f"{used[2]:.0f}", f"{used[3]:.0f}"]


if __name__ == "__main__":
    raise SystemExit(main())
