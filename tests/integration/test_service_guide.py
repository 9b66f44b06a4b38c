"""The guide for hosts as a service: installed, upgraded and removed with a real systemd.

The commands are those of the pages, as in the quick starts.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.docs.examples import Example, examples
from tests.integration.guides import FOLDERS, GUIDES, perform
from tests.support.hosts import PlainHosts, plain_hosts
from tests.support.images import image
from tests.support.systemd_host import SYSTEMD, SystemdHost

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.access(SYSTEMD, os.X_OK), reason="there is no systemd"),
]


async def test_the_service_is_installed_upgraded_and_removed(
    tmp_path: Path, checkout: Path
) -> None:
    """At the end the host is as before, but for the image."""
    found = examples(GUIDES / "host.md", story="service")
    [k3s] = examples(GUIDES / "k3s.md", story="service")
    upgrade = next(number for number, one in enumerate(found) if "--upgrade" in one.code)
    async with plain_hosts(
        "10.0.0.1", folder=tmp_path / "lab", checkout=checkout, kind=SystemdHost
    ) as lab:
        await lab.registry.push(f"{lab.registry.address}/app:1", image())
        [host] = lab.hosts.values()
        before = await host.tree("/etc/containerd", "/etc/systemd", "/usr/local/bin", *FOLDERS)
        await all_of(found[:upgrade], lab, "host.md")
        journal = await host.shell("journalctl -u spegel-py")
        assert re.search(r'\{.*"event": "mirror added"', journal), journal
        await all_of([k3s], lab, "k3s.md")
        shown = await host.shell("systemctl show --property ExecStartPre spegel-py")
        assert shown.strip() == ""  # nothing writes containerd's folder
        await host.shell("rm -r /etc/systemd/system/spegel-py.service.d")
        first = await main_process(lab)
        await all_of(found[upgrade : upgrade + 1], lab, "host.md")
        assert await main_process(lab) != first
        assert "spegel-py configuration" in await host.shell(
            "systemctl show --property ExecStartPre spegel-py"
        )
        await all_of(found[upgrade + 1 :], lab, "host.md")
        after = await host.tree("/etc/containerd", "/etc/systemd", "/usr/local/bin", *FOLDERS)
        assert after == before
        images = await host.shell("ctr -n k8s.io images ls -q")
        assert "registry.example/app:1" in images.splitlines()


async def all_of(found: list[Example], lab: PlainHosts, page: str) -> None:
    for one in found:
        await perform(one, lab, page)


async def main_process(lab: PlainHosts) -> str:
    """Return the id of the service's process, which must run."""
    [host] = lab.hosts.values()
    assert (await host.shell("systemctl is-active spegel-py")).strip() == "active"
    return await host.shell("systemctl show --property MainPID spegel-py")
