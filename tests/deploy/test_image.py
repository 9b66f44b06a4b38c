"""The image: built as a release is, on another base, and run as the chart runs it, with a real
containerd beside it.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from spegel_py import __version__
from tests.deploy.chart import ROOT
from tests.deploy.container import BuiltImage, first_process
from tests.deploy.test_running import status
from tests.integration.cluster import events, exit_status, joined, publish, registry_away
from tests.support import images, locks
from tests.support.lab import Node, start_lab
from tests.support.processes import Process, run, until
from tests.support.routers import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(1800),
]  # the first of them builds it, which takes minutes

NOBODY = 65532
LIMIT = 10.0
"""Seconds from SIGTERM to the end."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """The image, unpacked."""
    return BuiltImage.build(tmp_path_factory.mktemp("image"))


def test_its_configuration_says_how_it_is_run(built: BuiltImage) -> None:
    """As nobody, by SIGTERM's default, probed by the kubelet alone."""
    config = built.config["config"]
    assert (config["User"], config["Entrypoint"]) == (f"{NOBODY}:{NOBODY}", ["spegel-py"])
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
    assert set(config["ExposedPorts"]) == {"5000/tcp", "5001/tcp", "9090/tcp"}
    assert not {"Healthcheck", "StopSignal"} & config.keys()


def test_it_holds_nothing_that_only_building_needs(built: BuiltImage) -> None:
    """No compiler, no headers, no pip; and what of this machine was lent to the build is not in
    it.
    """
    for pattern in (
        "usr/bin/*gcc*",
        "usr/include/*.h",
        "opt/spegel-py/bin/pip*",
        "usr/bin/pip*",
        "src",
        "run/secrets/*",
    ):
        assert not [*built.root.glob(pattern)], pattern
    assert not (built.root / "etc/pip.conf").exists()
    assert built.size < 120_000_000


def test_its_environment_has_one_program(built: BuiltImage) -> None:
    """Dependencies bring others, demos among them, which no node runs."""
    programs = {path.name for path in built.root.glob("opt/spegel-py/bin/*")}
    assert {name for name in programs if not name.startswith("python")} == {"spegel-py"}


def test_its_packages_are_those_of_the_lock(built: BuiltImage) -> None:
    """The list that `make sbom` makes from the lock is therefore the image's."""
    (site,) = built.root.glob("opt/spegel-py/lib/python3*/site-packages")
    installed: dict[str, str] = {
        canonicalize_name(one.metadata["Name"]): one.version
        for one in metadata.distributions(path=[str(site)])
    }
    assert installed.pop("spegel-py") == __version__
    locked = locks.packages((ROOT / "requirements.lock").read_text())
    assert installed == {name: package.version for name, package in locked.items()}


def test_it_runs_as_nobody(built: BuiltImage) -> None:
    """With a read-only root and without any capability, every command can be loaded."""
    for arguments in (
        ["version", "--format", "json"],
        ["registry", "--help"],
        ["cleanup-wait", "--help"],
    ):
        done = subprocess.run(
            built.command(*arguments, user=NOBODY), capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
    version = subprocess.run(
        built.command("version", user=NOBODY), capture_output=True, text=True, check=True
    )
    assert version.stdout.strip() == __version__


async def test_nobody_serves_a_layout_and_stops_in_time(built: BuiltImage, tmp_path: Path) -> None:
    """The node is the first process of its container, which a signal reaches only if it is waited
    for.
    """
    app = images.image("image-nobody")
    layout = tmp_path / "layout"
    images.write_layout(layout, {"registry.example/app:1": app})
    await run("chmod", "-R", "a+rX", str(layout))
    port = free_port()
    arguments = [
        *("registry", "--oci-layout", str(layout), "--ready-when-alone=0"),
        *(f"--registry-addr=127.0.0.1:{port}", f"--router-addr=127.0.0.1:{free_port()}"),
        f"--metrics-addr=127.0.0.1:{free_port()}",
    ]
    node = Process(
        command=built.command(*arguments, user=NOBODY, places=[f"ro:{layout}"]),
        log=tmp_path / "image.log",
    )

    async def answers(path: str) -> bool:
        return await status(f"http://127.0.0.1:{port}{path}") == 200

    await node.start(lambda: answers("/livez"))
    try:
        await until(lambda: answers("/readyz"))
        assert await answers(f"/v2/app/blobs/{app.blobs[-1].digest}?ns=registry.example")
        assert node.pid
        began = time.monotonic()
        os.kill(first_process(node.pid), signal.SIGTERM)
        assert await exit_status(node) == 0
        assert time.monotonic() - began < LIMIT
    finally:
        await node.end(signal.SIGKILL)


async def test_a_containerd_pulls_from_the_image(built: BuiltImage) -> None:
    """It runs beside one containerd as the chart has it; another pulls through it while the
    registry is away.
    """
    app = images.image("image-pulled")
    async with start_lab(nodes=2) as lab:
        holder, puller = lab.nodes
        data = holder.folder / "data"
        data.mkdir()
        places = [f"ro:{holder.folder}", f"rw:{data}"]
        options = [f"--{name.replace('_', '-')}={value}" for name, value in holder.flags().items()]
        command = built.command("registry", *options, user=0, places=places)
        holder.spegel = Process(
            command=[*holder.namespace.prefix, *command], log=holder.folder / "image.log"
        )
        await holder.spegel.start(lambda: lives(holder), deadline=30.0)
        await puller.start_spegel()
        puller.write_hosts_toml(mirror=f"http://{puller.address}:5000")
        reference = lab.name("test/app:image")
        await joined(holder, puller)
        await publish(lab, reference, app, holder)
        async with registry_away(lab):
            await puller.cri.pull(reference)
        assert holder.spegel.pid
        first = first_process(holder.spegel.pid)
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{first}/status").read_text()
        began = time.monotonic()
        os.kill(first, signal.SIGTERM)
        assert await exit_status(holder.spegel) == 0
        assert time.monotonic() - began < LIMIT
        assert events(puller, "peer gone", why="goodbye")


async def lives(node: Node) -> bool:
    """Say whether a node answers the kubelet's probe."""
    try:
        return (await node.get("/livez")).status == 200
    except (OSError, http.client.HTTPException):
        return False
