"""Whole nodes on a real network: cut off, halved, without containerd, on full and read-only disks;
all of it is said, mended where it can be, and written down.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from spegel_py.supervision.journal import read
from tests.faults.primitives import halved, small_disk
from tests.integration.chronicles import (
    alerts,
    all_found,
    closed,
    history,
    opened,
    outcomes,
    verified,
)
from tests.integration.cluster import (
    blob_path,
    events,
    finds,
    manifest_path,
    metric,
    publish,
    start_cluster,
)
from tests.support.images import image
from tests.support.lab import Node, start_lab, until
from tests.support.processes import run

pytestmark = pytest.mark.root

PATIENCE = {"warn_when_isolated_for": "10s", "critical_when_isolated_for": "14s"}


async def test_a_node_that_is_cut_off_says_so_and_is_back_soon_after() -> None:
    """One warning, one critical line, one that it is over; probes and metrics say so, the alert is
    opened, acted upon and closed, the episode is kept; and within 15 s of the cable's return both
    sides find all.
    """
    async with start_cluster(3, **PATIENCE) as lab:
        first, _, cut = lab.nodes
        await publish(lab, lab.name("test/app:far"), image("far"), first)
        await publish(lab, lab.name("test/app:near"), image("near"), cut)
        await cut.namespace.plug(is_in=False)

        async def is_critical() -> bool:
            return bool(events(cut, "isolated", level="critical"))

        await until(is_critical, deadline=40)
        answer = await cut.get("/readyz")
        assert answer.status == 500
        assert json.loads(answer.body)["reasons"]
        assert await metric(cut, "spegel_isolated") == 1
        assert await metric(cut, "spegel_alerts_open", tier="P1") >= 1
        assert (await cut.get("/livez")).status == 200
        assert (await opened(cut, "isolated", deadline=5)).detection < 30
        await cut.namespace.plug(is_in=True)
        await all_found(
            lab.nodes, [manifest_path(lab.name(f"test/app:{tag}")) for tag in ("far", "near")]
        )
        alert = await closed(cut, "isolated", deadline=10)
        assert alert.recovery is not None
        assert (await cut.get("/readyz")).status == 200
        assert [len(events(cut, "isolated", level=level)) for level in ("warning", "critical")] == [
            1,
            1,
        ]
        [over] = events(cut, "isolation over")
        [warned] = events(cut, "isolated", level="warning")
        assert 10 <= warned["time_since_peer"] < 12
        assert over["seconds"] > 14
        [episode] = history(cut).episodes
        assert episode.ended is not None
        assert (await verified(cut, "isolated"))[0][0] == "rejoin"
        assert await metric(cut, "spegel_alert_recovery_seconds_count", tier="P1") >= 1


async def test_halves_of_a_cluster_know_that_they_are_halves() -> None:
    """Each node says how many of its peers are gone; 15 s after the halves are joined everybody
    finds everything.
    """
    async with start_cluster(4) as lab:
        left, right = lab.nodes[:2], lab.nodes[2:]
        await publish(lab, lab.name("test/app:left"), image("left"), left[1])
        await publish(lab, lab.name("test/app:right"), image("right"), right[1])
        await asyncio.sleep(
            10
        )  # what is lost in a node's first 10 s is not told from what was never there
        async with halved(left, right):
            for node in lab.nodes:
                alert = await opened(node, "partitioned", deadline=30)
                assert alert.detail == "2 of 3 peers went without a goodbye"
                assert alert.detection < alert.tier.detect
            assert await metric(lab.nodes[0], "spegel_known_peers") == 3
        await all_found(
            lab.nodes, [manifest_path(lab.name(f"test/app:{tag}")) for tag in ("left", "right")]
        )
        for node in lab.nodes:
            await closed(node, "partitioned", deadline=10)
            await verified(node, "partitioned")


async def test_a_goodbye_is_no_partition() -> None:
    """Nodes that are stopped in good order are neither lost nor a partition, and whoever remains is
    ready.
    """
    async with start_cluster(3) as lab:
        stays, *leave = lab.nodes
        await asyncio.sleep(10)  # as above
        for node in leave:
            assert node.spegel
            await node.spegel.end()

        async def is_alone() -> bool:
            return await metric(stays, "spegel_known_peers") == 0

        await until(is_alone, deadline=5)
        assert alerts(stays, "partitioned") == alerts(stays, "peer-lost") == []


@pytest.mark.containerd
async def test_a_containerd_that_is_killed_is_told_and_found_again() -> None:
    """The alert is opened at once, and closed when the daemon is followed again; what it held is
    still served.
    """
    async with start_cluster(2) as lab:
        node, other = lab.nodes
        app = image("app")
        await publish(lab, lab.name("test/app:1"), app, node)
        await node.daemon.kill()
        alert = await opened(node, "containerd-away", deadline=5)
        assert alert.detection < 2
        assert (await node.get(blob_path(app.blobs[1]))).status == 200
        await node.daemon.start()
        await closed(node, "containerd-away", deadline=15)
        assert await verified(node, "containerd-away") == [
            ("reconnect containerd", "done"),
            ("verify", "verified"),
        ]
        await publish(lab, lab.name("test/app:2"), image("later"), node)
        assert await finds(other, manifest_path(lab.name("test/app:2")))


@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_disk_that_takes_nothing_stops_no_pull(fault: str, tmp_path: Path) -> None:
    """A node with a full or read-only data directory serves, says so once, and writes all down when
    it can again.
    """
    condition = {"full": "disk-full", "read-only": "data-dir-read-only"}[fault]
    app = image("app")
    async with small_disk(tmp_path / "disk", size="256k") as disk, start_lab(nodes=1) as lab:
        node = lab.nodes[0]
        data = node.folder / "data"
        data.symlink_to(disk)
        await node.start_spegel(static_bootstrap_peers=None)
        await lab.registry.push(lab.name("test/app:1"), app)
        await node.cri.pull(lab.name("test/app:1"))
        if fault == "full":
            await run("sh", "-c", f"cat /dev/zero > {disk}/filler || true")
        else:
            await run("mount", "-o", "remount,ro", str(disk))

        async def is_told() -> bool:
            return bool(events(node, "alert opened", condition=condition))

        await until(is_told, deadline=15)
        await node.daemon.kill()  # something else to write down meanwhile
        await until(lambda: _told(node, "alert opened", "containerd-away"), deadline=15)
        assert (await node.get(blob_path(app.blobs[1]))).status == 200
        await node.daemon.start()
        await until(lambda: _told(node, "alert closed", "containerd-away"), deadline=15)
        assert len(events(node, "alert opened", condition=condition)) == 1
        if fault == "full":
            (disk / "filler").unlink()
        else:
            await run("mount", "-o", "remount,rw", str(disk))
        await closed(node, condition, deadline=15)
        await closed(node, "containerd-away", deadline=15)
        assert (await node.get("/livez")).status == 200
        assert node.spegel
        await node.spegel.end()


async def _told(node: Node, event: str, condition: str) -> bool:
    return bool(events(node, event, condition=condition))


async def test_a_restart_closes_what_was_open_and_goes_on_counting() -> None:
    """After kill -9 the next life closes the alerts of the last, says why, and never gives an id
    twice.
    """
    async with start_lab(nodes=1) as lab:
        node = lab.nodes[0]
        await node.daemon.stop()
        for life in range(1, 4):
            await node.start_spegel(static_bootstrap_peers=None)

            async def has_one_more(life: int = life) -> bool:
                return len(alerts(node, "containerd-away")) == life

            await until(has_one_more, deadline=10)
            assert node.spegel
            await node.spegel.end(signal.SIGKILL)
        ids = [alert.id.rpartition("-")[2] for alert in history(node).alerts]
        assert ids == ["001", "002", "003"]
        assert [alert.is_open for alert in alerts(node, "containerd-away")] == [False, False, True]
        assert outcomes(node, "containerd-away").count(("restart", "interrupted")) == 2


WRITER = """
import sys
from pathlib import Path
from spegel_py.supervision.journal import Journal
journal = Journal(folder=Path(sys.argv[1]), name="a.jsonl", max_bytes=20_000)
number = 0
while True:
    journal.append({"n": number, "text": "x" * 50})
    journal.flush()
    print(number, flush=True)
    number += 1
"""


def test_kill_9_in_mid_write_loses_at_most_the_last_line(tmp_path: Path) -> None:
    """Whatever was flushed before the kill is read, rotations included; and the next life goes on
    writing.
    """
    for round_ in range(5):
        folder = tmp_path / str(round_)
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                if int(line) >= 300 + 40 * round_:
                    break
            process.kill()
            last = int([line, *process.stdout.read().splitlines()][-1])
        kept = [record["n"] for record in read(folder, "a.jsonl")]
        assert kept[-1] in (last, last + 1)
        assert kept == list(range(int(str(kept[0])), len(kept) + int(str(kept[0]))))


async def test_the_command_reads_what_a_node_wrote() -> None:
    """`spegel-py alerts` shows the alerts of a node that runs, and of one that was killed, its last
    line torn.
    """
    async with start_lab(nodes=1) as lab:
        node = lab.nodes[0]
        await node.daemon.stop()
        await node.start_spegel(static_bootstrap_peers=None)
        alert = await opened(node, "containerd-away", deadline=10)
        assert alert.id in await _alerts(node)
        assert node.spegel
        await node.spegel.end(signal.SIGKILL)
        with (node.folder / "data" / "alerts.jsonl").open("ab") as file:
            file.write(b'{"id":"ALERT-2')
        assert alert.id in await _alerts(node)
        shown = json.loads(await _alerts(node, "--json"))
        assert [each["id"] for each in shown["alerts"]] == [alert.id]


async def _alerts(node: Node, *flags: str) -> str:
    return await run(
        sys.executable, "-m", "spegel_py", "alerts", "--data-dir", str(node.folder / "data"), *flags
    )
