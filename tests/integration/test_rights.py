"""What a node needs of its machine: root's files, and none of root's other powers; the systemd unit
gives no more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cluster import joined, publish, registry_away
from tests.support.images import image
from tests.support.lab import Lab

pytestmark = pytest.mark.root

READ_ONLY = (
    "unshare",
    "--mount",
    "sh",
    "-euc",
    'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"',
)
"""Run with a folder and a command: the command sees the folder read-only."""

POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


async def test_a_node_without_any_capability_shares_its_images(lab: Lab) -> None:
    """It follows containerd through its socket, serves and relays, with containerd's folders
    read-only.
    """
    app = image("powerless")
    reference = lab.name("test/app:powerless")
    holder, puller = lab.nodes
    for node in lab.nodes:
        identity = node.folder.parent / f"identity-{node.address}"
        node.under = (*READ_ONLY, str(node.folder), *POWERLESS)
        await node.start_spegel(data_dir=str(identity))
        node.write_hosts_toml(mirror=f"http://{node.address}:5000")
    await joined(holder, puller)
    await publish(lab, reference, app, holder)
    async with registry_away(lab):
        await puller.cri.pull(reference)
    assert holder.spegel
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{holder.spegel.pid}/status").read_text()
