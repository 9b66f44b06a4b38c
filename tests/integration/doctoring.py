"""The command `doctor`, run beside a node as people run it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import spegel_py
from tests.support.lab import Node
from tests.support.processes import run


async def doctor(node: Node, **flags: str) -> tuple[int, dict[str, Any]]:
    """Run the command on a node; returns its exit status and the findings by check."""
    given = {
        "containerd_sock": str(node.daemon.socket),
        "containerd_content_path": str(node.daemon.content_path),
        "containerd_registry_config_path": str(node.daemon.certs),
        "containerd_config": str(node.folder / "config.toml"),
    } | flags
    options = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    process = await asyncio.create_subprocess_exec(
        *(*node.namespace.prefix, sys.executable, "-m", "spegel_py", "doctor", "--json", *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(spegel_py.__file__).parent.parent,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode or 0, {one["check"]: one for one in json.loads(out)["findings"]}


async def configure(node: Node, host: str = "127.0.0.1", more: Sequence[str] = ()) -> None:
    """Have `spegel-py configuration` write the hosts.toml files."""
    command = (*node.namespace.prefix, sys.executable, "-m", "spegel_py", "configuration")
    folder = ("--containerd-registry-config-path", str(node.daemon.certs))
    here = {"PYTHONPATH": str(Path(spegel_py.__file__).parent.parent)}
    target = ("--mirror-targets", f"http://{host}:5000")
    await run(*command, *folder, *target, *more, environment=here)


async def bare_doctor(node: Node, *prefix: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command without any flag; returns its exit status and its findings."""
    process = await asyncio.create_subprocess_exec(
        *(*node.namespace.prefix, *prefix, sys.executable, "-m", "spegel_py", "doctor", "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(spegel_py.__file__).parent.parent,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return process.returncode or 0, json.loads(out)["findings"]
