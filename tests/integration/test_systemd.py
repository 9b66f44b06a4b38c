"""The unit under a real systemd: what its step before the start may do to containerd's folder, and
the node may not.

systemd runs as the first process of namespaces of its own, with nothing but the unit.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

import spegel_py
from tests.support.host_trees import EXISTING, described
from tests.support.processes import Process

SYSTEMD = "/lib/systemd/systemd"
UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "spegel-py.service"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.access(SYSTEMD, os.X_OK), reason="there is no systemd"),
]

BOOT = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /etc/systemd/system
mount --bind "$1"/state /var/lib
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cp "$1"/spegel-py.service "$1"/only.target /etc/systemd/system
container=other exec {systemd} --system --unit=only.target --log-target=console
"""

TARGET = """
[Unit]
DefaultDependencies=no
Wants=spegel-py.service
"""

PROGRAM = """#!/bin/sh
# The unit's program: configuration is the real one, registry only tells what it may do.
export PYTHONPATH={source} CONTAINERD_REGISTRY_CONFIG_PATH={certs} PREPEND_EXISTING=true
export MIRRORED_REGISTRIES=_default,https://docker.io
grep -h "^Cap\\|^NoNewPrivs" /proc/self/status > "$STATE_DIRECTORY/$1.status" 2>/dev/null || true
if [ "$1" = configuration ]; then
    exec {python} -m spegel_py configuration > {folder}/configuration.log 2>&1
fi
touch {certs}/written-by-registry 2>/dev/null || touch "$STATE_DIRECTORY/could-not-write"
touch "$STATE_DIRECTORY/started"
exec sleep 1000
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what systemd is to run, and with containerd's files of other users."""
    root = tmp_path / "certs.d"
    (root / "docker.io").mkdir(parents=True)
    (root / "docker.io" / "hosts.toml").write_text(EXISTING)
    (root / "docker.io" / "client.key").write_text("of another user")
    for path in (
        root / "docker.io" / "client.key",
        root / "docker.io" / "hosts.toml",
        root / "docker.io",
    ):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.chown(path, 1234, 5678)
    program = tmp_path / "program"
    source = Path(spegel_py.__file__).parent.parent
    program.write_text(
        PROGRAM.format(source=source, certs=root, folder=tmp_path, python=sys.executable)
    )
    program.chmod(0o755)
    text = UNIT.read_text().replace("/opt/spegel-py/bin/spegel-py", str(program))
    text = text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n")
    # the tests' own files lie in /tmp and /root, which the unit hides
    text = re.sub(r"^(PrivateTmp|ProtectHome)=yes$", r"\1=no", text, flags=re.MULTILINE)
    (tmp_path / "spegel-py.service").write_text(text)
    (tmp_path / "only.target").write_text(TARGET)
    (tmp_path / "state").mkdir()
    return tmp_path


async def test_the_step_before_the_start_has_what_it_needs(folder: Path) -> None:
    """It keeps files that only another user may read, with their owners; the node itself has no
    capability.
    """
    state = folder / "state" / "spegel-py"
    before = described(folder / "certs.d" / "docker.io") or {}
    namespaces = (
        "unshare",
        "--fork",
        "--pid",
        "--mount",
        "--uts",
        "--ipc",
        "--cgroup",
        "--kill-child",
    )
    boot = ("sh", "-c", BOOT.format(systemd=SYSTEMD), "boot", str(folder))
    running = Process(command=[*namespaces, *boot], log=folder / "systemd.log")
    try:
        await running.start(partial(_is_there, state / "started"))
    finally:
        await running.end(signal.SIGKILL)
    status = {
        name: (state / f"{name}.status").read_text() for name in ("configuration", "registry")
    }
    said = [json.loads(line) for line in (folder / "configuration.log").read_text().splitlines()]
    assert [one["event"] for one in said[:3]] == [
        "mirror added",
        "mirror changed",
        "containerd is configured",
    ], said
    assert "mirror.example" in (folder / "certs.d" / "docker.io" / "hosts.toml").read_text()
    for kept in ("_backup/docker.io", "docker.io"):
        after = described(folder / "certs.d" / kept) or {}
        assert after["client.key"] == before["client.key"]
    assert "CapEff:\t0000000000000000" in status["registry"]
    assert "CapEff:\t0000000000000000" not in status["configuration"]
    assert (state / "could-not-write").exists()


async def _is_there(path: Path) -> bool:
    return path.exists()
