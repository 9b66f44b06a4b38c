"""The libp2p side of a whole node killed and hung, the wall clock set, and records lost: all of it
heals by itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from spegel_py import node
from spegel_py.config import Config
from spegel_py.routing.libp2p.keys import name_hash
from spegel_py.routing.libp2p.router import Libp2pRouter
from spegel_py.routing.libp2p.trio_side import TrioSide
from spegel_py.supervision.history import RecordedHistory, read_history
from tests.support import routers
from tests.support.images import image, write_layout
from tests.support.routers import cluster, found, free_port, ports, until

NAME = "registry.example/app:1"


@dataclass
class Running:
    """One whole node in this process, on loopback, over a layout folder with one image."""

    router: Libp2pRouter
    folder: Path
    registry: str
    metrics: str
    address: str

    def history(self) -> RecordedHistory:
        return read_history(self.folder / "data")

    def outcomes(self, condition: str) -> list[tuple[str, str]]:
        """Return what was done about the closed alerts of a condition."""
        ids = {
            alert.id
            for alert in self.history().alerts
            if alert.condition == condition and not alert.is_open
        }
        return [
            (str(one["action"]), str(one["outcome"]))
            for one in self.history().repairs
            if one["alert"] in ids
        ]


@asynccontextmanager
async def running(folder: Path, *, holds: bool, bootstrap: str = "") -> AsyncIterator[Running]:
    write_layout(folder / "layout", {NAME: image("app")} if holds else {})
    registry, router, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
    address = f"/ip4/127.0.0.1/tcp/{router.rpartition(':')[2]}"
    config = Config.load(
        flags={
            "registry_addr": registry,
            "router_addr": router,
            "metrics_addr": metrics,
            "oci_layout": str(folder / "layout"),
            "data_dir": str(folder / "data"),
            "static_bootstrap_peers": [bootstrap or address],
        },
        environment={},
        file=None,
    )
    async with node.running(config) as libp2p:
        yield Running(libp2p, folder, f"http://{registry}", f"http://{metrics}", address)


@asynccontextmanager
async def two(tmp_path: Path) -> AsyncIterator[tuple[Running, Running]]:
    """Run a node that holds an image and one that has found it there."""
    async with (
        running(tmp_path / "one", holds=True) as one,
        running(tmp_path / "two", holds=False, bootstrap=one.address) as other,
    ):
        await until(lambda: finds(other))
        yield one, other


async def finds(one: Running) -> bool:
    return len(await found(one.router, NAME)) == 1


async def ask(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.json()


async def test_a_dead_libp2p_side_is_told_started_and_told_again(tmp_path: Path) -> None:
    """It is up again within seconds, all is advertised anew, and the alert with its audit trail
    says so.
    """
    async with two(tmp_path) as (one, other):
        await one.router.crash()
        await until(lambda: not one.router.connected())
        await until(lambda: finds(other), timeout=15)
        await until(lambda: one.outcomes("router-down")[-1:] == [("verify", "verified")])
        assert one.outcomes("router-down") == [("restart libp2p", "done"), ("verify", "verified")]
        [alert] = one.history().alerts
        assert alert.detection < alert.tier.detect
        assert alert.recovery is not None
        assert alert.recovery < alert.tier.recover
        assert "killed on purpose" in alert.detail
        assert (await ask(f"{one.registry}/livez"))[0] == 200


async def test_a_hung_libp2p_side_is_left_behind(tmp_path: Path) -> None:
    """A side that does not answer is seen within 30 s; another takes its place, while HTTP goes on
    and the old one, when it wakes up, does no harm.
    """
    release = threading.Event()
    async with two(tmp_path) as (one, other):
        try:
            await one.router.hang(release.wait)
            await until(lambda: not other.router.connected())
            began = time.monotonic()
            assert (await ask(f"{one.registry}/readyz"))[0] in (200, 500)
            assert time.monotonic() - began < 2
            await until(lambda: finds(other), timeout=40)
            await until(lambda: one.outcomes("router-hung")[-1:] == [("verify", "verified")])
            assert one.outcomes("router-hung") == [
                ("restart libp2p", "done"),
                ("verify", "verified"),
            ]
            # its peer is silent too, as far as it hears, which may be foretold to be the peer's end
            [alert] = [each for each in one.history().alerts if each.condition == "router-hung"]
            assert alert.detection < 30
        finally:
            release.set()
        await until(
            lambda: len([each for each in threading.enumerate() if each.name == "libp2p"]) == 2
        )
        assert await finds(other)
        assert (await ask(f"{one.registry}/livez"))[0] == 200


async def test_a_side_beyond_repair_fails_livez(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every new life fails to start, the alert is escalated after two tries, and a restart is
    asked for.
    """
    async with running(tmp_path, holds=True) as one:
        await until(lambda: not one.router.expects_peers)  # it has found out that it is alone

        async def broken(self: TrioSide) -> None:
            raise RuntimeError("no way")

        monkeypatch.setattr(TrioSide, "start", broken)
        await one.router.crash()

        async def is_given_up() -> bool:
            return (await ask(f"{one.registry}/livez"))[0] == 500

        await until(is_given_up, timeout=100)
        _, body = await ask(f"{one.registry}/livez")
        assert body == {"live": False, "reasons": ["router-down: all repairs were in vain"]}
        _, state = await ask(f"{one.metrics}/debug/state")
        [alert] = state["supervision"]["alerts"]
        assert (alert["condition"], alert["escalated"]) == ("router-down", True)
        assert [action["outcome"] for action in state["supervision"]["actions"]] == [
            "timed-out"
        ] * 2 + ["escalated"]


async def test_a_node_that_knows_only_itself_is_ready_after_a_while(tmp_path: Path) -> None:
    """A cluster of one, whose bootstrap names nobody else, becomes ready and is not called
    isolated.
    """
    async with running(tmp_path, holds=True) as one:
        status, body = await ask(f"{one.registry}/readyz")
        assert (status, body["reasons"]) == (500, ["no peer is connected"])

        async def is_ready() -> bool:
            return (await ask(f"{one.registry}/readyz"))[0] == 200

        await until(is_ready, timeout=40)
        _, state = await ask(f"{one.metrics}/debug/state")
        assert state["supervision"]["isolation"]["cut_off"] is False
        assert state["supervision"]["alerts"] == []
        assert one.history().alerts == []


async def test_records_live_on_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the wall clock set ten days on and back, nobody forgets what the other holds."""
    async with cluster(2, interval=0.5) as nodes:
        await nodes[0].router.advertise(["k"])
        await until(lambda: _held(nodes[1], {nodes[0].registry_port}))
        real = time.time
        for jump in (864_000.0, -864_000.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            end = time.monotonic() + 2.0  # four intervals, twice what a record lives
            while time.monotonic() < end:
                assert await _held(nodes[1], {nodes[0].registry_port})
                await asyncio.sleep(0.05)
        assert len(nodes[0].router.connected()) == 1


async def test_records_that_were_lost_are_asked_for_again() -> None:
    """A peer that has forgotten a key notices with the next refresh, by its checksum, and gets the
    whole set.
    """
    async with cluster(2, interval=0.5) as nodes:
        await nodes[0].router.advertise(["k", "l"])
        await until(lambda: _held(nodes[1], {nodes[0].registry_port}))
        nodes[1].router._table.remove(
            nodes[0].router.id, [name_hash("k")]
        )  # as a fault in it would
        assert await ports(nodes[1].router, "k") == set()
        await until(lambda: _held(nodes[1], {nodes[0].registry_port}), timeout=5)


async def _held(one: routers.Node, expected: set[int]) -> bool:
    return await ports(one.router, "k") == expected
