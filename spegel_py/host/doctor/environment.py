"""The proxies in the environment of the running containerd.

If its process cannot be read, its systemd service is asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

from spegel_py.host.doctor import proxies
from spegel_py.host.doctor.facts import ProxySettings, Unknown
from spegel_py.host.host_files import read_text

SERVICES = (
    "containerd.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
)
"""systemd services that run containerd."""

TIMEOUT = 2.0
"""Seconds to connect to the socket, and for systemctl to answer."""


def of_process(path: Path, proc: Path = Path("/proc")) -> ProxySettings | Unknown:
    """Return the proxies that systemd gives to the first existing service of SERVICES."""
    try:
        process = _listener(path)
        if not process:
            return Unknown("containerd's process is not to be seen from here")
        found = _variables(
            (proc / str(process) / "environ").read_bytes().decode(errors="replace").split("\0")
        )
    except OSError as error:
        return Unknown(
            f"the environment of containerd's process cannot be read: {error.strerror or error}"
        )
    return proxies.settings(
        found, source=f"environment of process {process}", unit=_unit(proc / str(process))
    )


def config_of(path: Path, proc: Path = Path("/proc")) -> Path | None:
    """Return the file of `--config` of the daemon that listens on a socket; None if unknown.

    Raises OSError.
    """
    process = _listener(path)
    words = (proc / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for word, following in pairwise(words):
        flag, equals, value = word.partition("=")
        if flag in ("-c", "--config", "-config"):
            return Path(value if equals else following)
    return None


def of_service() -> ProxySettings | Unknown:
    """Return the proxies that systemd gives to the first of SERVICES that there is."""
    keys = ("Id", "LoadState", "Environment", "EnvironmentFiles")
    command = ["systemctl", "show", *SERVICES, *(f"--property={key}" for key in keys)]
    try:
        done = subprocess.run(  # noqa: S603 - no part of it is input
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unknown(f"systemctl does not answer: {error}")
    for block in done.stdout.split("\n\n"):
        lines = [line.partition("=")[::2] for line in block.splitlines()]
        shown = dict(lines)
        if shown.get("LoadState") == "loaded":
            found = _variables(_words(shown.get("Environment", "")))
            for text in (value for key, value in lines if key == "EnvironmentFiles"):
                found |= _variables(_assignments(Path(text.rpartition(" (")[0] or text)))
            unit = shown.get("Id", SERVICES[0])
            return proxies.settings(found, source=f"systemctl show {unit}", unit=unit)
    return Unknown("systemd has no service of containerd's")


def _listener(path: Path) -> int:
    """Return the id of the process that listens on a socket. Raises OSError.

    It is 0 if the process is in another PID namespace.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as asking:
        asking.settimeout(TIMEOUT)
        asking.connect(os.fspath(path))
        told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[0])


def _unit(process: Path) -> str:
    with contextlib.suppress(OSError):
        if found := re.search(
            r"/([^/\n]+\.service)$", (process / "cgroup").read_text(), re.MULTILINE
        ):
            return found[1]
    return SERVICES[0]


def _variables(texts: list[str]) -> dict[str, str]:
    return {
        name: value for name, equals, value in (text.partition("=") for text in texts) if equals
    }


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _assignments(path: Path) -> list[str]:
    """Return the assignments in an environment file of systemd; none if it cannot be read."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError):
        return []
    return ["".join(_words(line)[:1]) for line in lines if not line.lstrip().startswith(("#", ";"))]
