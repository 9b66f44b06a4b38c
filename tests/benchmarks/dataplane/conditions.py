"""What the figures depend on, for the page: the machine, the versions, and what was left out."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.dataplane.commands import PEER, SPEGEL, missing
from tests.benchmarks.dataplane.plan import Scale


def conditions(arguments: Sequence[str], scale: Scale, obstacle: str) -> dict[str, Any]:
    """Return the conditions by name; `obstacle` says why there is no slow disk, if so."""
    left_out = [f"{name} ({reason})" for name, reason in missing().items()] + (
        [obstacle] if obstacle else []
    )
    return machine.conditions() | {
        "command": shlex.join(["python", "-m", "tests.benchmarks.dataplane", *arguments]),
        "Spegel": _spegel() if SPEGEL else "none",
        "Go": _output("go", "version").removeprefix("go version ") or "none",
        "nginx": _output("nginx", "-v").removeprefix("nginx version: ") or "none",
        "blobs": ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in scale.blobs.items()),
        "rounds": scale.rounds,
        "relayed from": (
            f"one plain sendfile server on {PEER}, the same for all; the nodes find it in their DHT"
        ),
        "clients": (
            "processes beside the servers, over loopback; zero-copy: recv with MSG_TRUNC, "
            "copying: recv_into"
        ),
        "CPU": "user and system time of the server's processes; of relays the relay's alone",
        "verifying": (
            "a spegel-py with --verify-blobs all, the other has it off; by default one "
            "blob in 32 is verified"
        ),
        "slow disk": obstacle
        or f"{scale.disk_rate / 1e6:.0f} MB/s by the block I/O controller, cold page cache",
        "left out": ", ".join(left_out) or "nothing",
    }


def spegel_version(build: str) -> str:
    """Return what the output of `go version -m` says of the version."""
    found = re.search(r"^\tmod\t\S+\t(\S+)", build, re.MULTILINE)
    return found[1] if found else "unknown"


def _spegel() -> str:
    digest = hashlib.sha256(Path(SPEGEL).read_bytes()).hexdigest()
    return (
        f"{spegel_version(_output('go', 'version', '-m', SPEGEL))} (sha256 of the binary: "
        f"{digest[:12]}…)"
    )


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except OSError:
        return ""
    return (done.stdout or done.stderr).strip()  # nginx writes its version to stderr
