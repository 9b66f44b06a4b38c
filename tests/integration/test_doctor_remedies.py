"""Remedies of the doctor that change more than hosts.toml files, followed on real machines.

Each is taken from the finding as it is printed. Afterwards the finding is gone, and there is no
other one. systemd does not run here, so its part is done by hand: a service is restarted, and its
file is checked by `systemd-analyze`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from spegel_py.host.doctor.facts import Facts, Pull, Subject
from spegel_py.host.doctor.node_checks import check_pull
from spegel_py.oci.digest import Digest
from tests.integration.cluster import joined
from tests.integration.conftest import Labs
from tests.integration.doctoring import configure, doctor
from tests.support.clocks import SettableClock
from tests.support.images import image
from tests.support.lab import REGISTRY, Lab, Node
from tests.support.processes import run, until

pytestmark = pytest.mark.root

PLAIN = ("--mirrored-registries", "_default", f"http://{REGISTRY}")
"""Flags of `configuration` that keep every registry of the lab."""


async def healthy(labs: Labs, nodes: int = 2) -> Lab:
    """Start nodes with an image each, about which the doctor finds nothing."""
    lab = await labs(nodes)
    for number, node in enumerate(lab.nodes):
        (node.daemon.certs / REGISTRY / "hosts.toml").unlink()
        await configure(node, more=PLAIN)
        await node.start_spegel()
        await node.daemon.load({lab.name(f"test/app:{number}"): image(f"app {number}")})
    await joined(*lab.nodes)
    return lab


async def wrong(node: Node, **flags: str) -> dict[str, dict[str, Any]]:
    """Return the findings that need a remedy, by their checks."""
    _, findings = await doctor(node, **flags)
    return {name: one for name, one in findings.items() if one["level"] != "ok"}


async def is_well(node: Node) -> None:
    """Wait until the doctor finds nothing."""

    async def finds_nothing() -> bool:
        return await wrong(node) == {}

    try:
        await until(finds_nothing, deadline=30.0, pause=0.2)
    except TimeoutError:
        assert await wrong(node) == {}


async def test_a_proxy_is_kept_off_the_mirror(
    labs: Labs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line for systemd is valid there, and with its value containerd asks the mirror."""
    monkeypatch.setenv("HTTP_PROXY", "http://10.99.9.9:3128")
    monkeypatch.setenv("NO_PROXY", "10.1.0.0/16")
    lab = await healthy(labs)
    node = lab.nodes[0]
    await configure(node, node.address, more=PLAIN)
    [finding] = (await wrong(node)).values()
    found = re.match(
        r'put Environment="(NO_PROXY=\S+)" below \[Service\] into (\S+) \(or .*\); '
        r"then systemctl daemon-reload && systemctl restart containerd$",
        finding["remedy"],
    )
    assert found, finding["remedy"]
    assert found[2] == "/etc/systemd/system/containerd.service.d/spegel-py.conf"
    await is_valid_for_systemd(tmp_path, f'[Service]\nEnvironment="{found[1]}"\n')
    monkeypatch.setenv(*found[1].split("=", 1))
    await node.daemon.stop()
    await node.daemon.start()
    await is_well(node)


async def is_valid_for_systemd(folder: Path, drop_in: str) -> None:
    """Fail unless systemd takes a drop-in of containerd's service without a word."""
    if shutil.which("systemd-analyze") is None:
        return
    below = folder / "containerd.service.d"
    below.mkdir()
    (folder / "containerd.service").write_text("[Service]\nExecStart=/bin/true\n")
    (below / "spegel-py.conf").write_text(drop_in)
    command = ("systemd-analyze", "verify", "--man=no", "containerd.service")
    said = await run(*command, environment={"SYSTEMD_UNIT_PATH": f"{folder}:"})
    assert str(below) not in said, said
    (below / "spegel-py.conf").write_text("[Service]\nEnvironmental=x\n")
    said = await run(*command, environment={"SYSTEMD_UNIT_PATH": f"{folder}:"})
    assert "Environmental" in said  # so it would have said something


async def test_a_clock_that_is_off_is_set(labs: Labs, tmp_path: Path) -> None:
    """On the machine that is named; `timedatectl` is a script here, which sets its clock."""
    lab = await labs(2)
    node, other = lab.nodes
    clock = SettableClock(tmp_path)
    await clock.build()
    clock.set(3600)
    other.under = clock.prefix
    for each in lab.nodes:
        (each.daemon.certs / REGISTRY / "hosts.toml").unlink()
        await configure(each, more=PLAIN)
        await each.daemon.load({lab.name("test/app:1"): image()})
    await asyncio.gather(node.start_spegel(), other.start_spegel())
    await joined(node, other)
    [finding] = (await wrong(node)).values()
    machine, colon, command = finding["remedy"].removeprefix("on ").partition(": ")
    assert (finding["check"], machine, colon) == ("clock", other.address, ": ")
    program = tmp_path / "timedatectl"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "set-ntp true" ] && head -c 8 /dev/zero >{tmp_path}/zero\n'
        f"dd if={tmp_path}/zero of={tmp_path}/ahead conv=notrunc 2>/dev/null\n"
    )
    program.chmod(0o755)
    await run("sh", "-c", command, environment={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    await is_well(node)


async def test_a_node_that_is_not_there_is_started(labs: Labs) -> None:
    """Started, or asked at the address where it is."""
    lab = await healthy(labs)
    node = lab.nodes[1]
    assert node.spegel
    await node.spegel.end()
    found = await wrong(node)
    assert set(found) == {"hosts.toml", "node", "pull"}
    for check, flag in (("node", "--metrics-addr"), ("pull", "--registry-addr")):
        assert found[check]["remedy"].startswith(f"start spegel-py registry, or give {flag} (")
    await node.start_spegel(metrics_addr=":9190")
    await joined(*lab.nodes[:1])
    found = await wrong(node)
    assert found["node"]["remedy"].endswith("(asked was http://127.0.0.1:9090)")

    async def is_found() -> bool:
        return await wrong(node, metrics_addr=":9190") == {}

    await until(is_found, deadline=30.0, pause=0.2)
    await node.spegel.end()
    await node.start_spegel()
    await is_well(node)


async def test_a_containerd_that_is_away_is_started(labs: Labs) -> None:
    """A start by `systemctl` is the start of the daemon here."""
    lab = await healthy(labs)
    node = lab.nodes[0]
    await node.daemon.stop()
    found = await wrong(node)
    assert found["containerd"]["remedy"].startswith("start containerd, or give containerd's ")
    await node.daemon.start()
    await is_well(node)


async def test_a_node_without_peers_is_given_one(labs: Labs) -> None:
    """With the flag that the remedy has, and the other node's address."""
    lab = await healthy(labs)
    node, other = lab.nodes
    assert node.spegel
    await node.spegel.end()
    await node.start_spegel(static_bootstrap_peers=f"/ip4/{node.address}/tcp/5001")
    assert other.spegel
    await other.spegel.end()
    await until_isolated(node)
    await other.start_spegel(static_bootstrap_peers=f"/ip4/{other.address}/tcp/5001")
    finding = (await wrong(node))["peers"]
    given = re.match(r"name another node with --(\S+) (\S+) ", finding["remedy"])
    assert given, finding
    peer = {given[1].replace("-", "_"): given[2].replace("ADDRESS", other.address)}
    await node.spegel.end()
    await node.start_spegel(**peer)
    await is_well(node)


async def until_isolated(node: Node) -> None:
    """Wait until the doctor finds no peer."""

    async def is_isolated() -> bool:
        return "peers" in await wrong(node)

    await until(is_isolated, deadline=60.0, pause=0.2)


async def test_an_image_in_another_namespace_is_pulled_again(labs: Labs) -> None:
    """By the command that the remedy has."""
    lab = await labs(2)
    node, other = lab.nodes
    reference = lab.name("test/app:1")
    await lab.registry.push(reference, image())
    (node.daemon.certs / REGISTRY / "hosts.toml").unlink()
    await configure(node, more=PLAIN)
    await asyncio.gather(node.start_spegel(), other.start_spegel())
    await joined(node, other)
    await node.daemon.load({reference: image()}, namespace="default")

    async def is_seen() -> bool:
        return "default" in (await wrong(node)).get("pull", {}).get("finding", "")

    await until(is_seen, deadline=30.0, pause=0.2)
    remedy = (await wrong(node))["pull"]["remedy"]
    found = re.match(r"pull with ctr (-n k8s\.io images pull --hosts-dir \S+) IMAGE, ", remedy)
    assert found, remedy
    words = (*found[1].split(), reference)
    await run(*node.namespace.prefix, "ctr", "-a", str(node.daemon.socket), *words)
    await is_well(node)


async def test_a_node_on_the_wrong_folder_is_started_with_the_right_one(labs: Labs) -> None:
    """The remedy has the folder that containerd itself names."""
    lab = await healthy(labs)
    node = lab.nodes[0]
    assert node.spegel
    await node.spegel.end()
    await node.start_spegel(containerd_content_path="/nowhere")
    found = await wrong(node, containerd_content_path="/nowhere")
    given = re.match(r"start the node with --(\S+) (\S+) ", found["content_path"]["remedy"])
    assert given, found
    await node.spegel.end()
    await node.start_spegel(**{given[1].replace("-", "_"): given[2]})
    await is_well(node)


async def test_the_command_for_wrong_bytes_tells_a_good_disk(labs: Labs) -> None:
    """It prints the digest of what is on the disk."""
    lab = await labs(1)
    daemon = lab.nodes[0].daemon
    app = image()
    await daemon.load({lab.name("test/app:1"): app})
    digest = Digest.parse(str(app.root.digest))
    subject = Subject(
        socket=daemon.socket, namespace="k8s.io", content_path=None, registry="", metrics=""
    )
    [finding] = check_pull(Facts(subject=subject, pull=Pull(digest=digest, status=200)))
    command = (finding.remedy or "").removesuffix(" tells whether the disk is bad")
    assert command != finding.remedy
    address = {"CONTAINERD_ADDRESS": str(daemon.socket)}
    printed = await run("sh", "-ec", command, environment=address)
    assert printed.split()[0] == str(digest).partition(":")[2]
