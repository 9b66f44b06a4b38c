"""A DaemonSet's Pods in the Kubernetes API, and the time that `cleanup-wait` waits for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from spegel_py.errors import ConfigError, HostError
from spegel_py.host import daemonset
from spegel_py.host.cleanup_wait import wait_for_daemonset
from spegel_py.host.daemonset import ClusterError, DaemonSet, coverage

LABELS = {"app.kubernetes.io/component": "cleanup", "app.kubernetes.io/instance": "mirror"}


def pod(node: str, *, is_ready: bool = True, is_bound: bool = True, **more: Any) -> dict[str, Any]:
    """Return a Pod of a DaemonSet as the API server lists it."""
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
                ]
            }
        }
    }
    return {
        "metadata": {"name": f"cleanup-{node}"},
        "spec": {"affinity": affinity} | ({"nodeName": node} if is_bound else {}),
        "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": str(is_ready)}]}
        | more,
    }


class Api:
    """An API server that knows one DaemonSet."""

    def __init__(self) -> None:
        self.wanted = 2
        self.pods: list[dict[str, Any]] = []
        self.generation = 1
        self.status = 200
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if self.status != 200:
            return web.json_response({"message": "no such thing"}, status=self.status)
        if request.path.endswith("/pods"):
            return web.json_response({"items": self.pods})
        return web.json_response(
            {
                "metadata": {"generation": 1},
                "spec": {"selector": {"matchLabels": LABELS}},
                "status": {
                    "observedGeneration": self.generation,
                    "desiredNumberScheduled": self.wanted,
                },
            }
        )

    @asynccontextmanager
    async def served(self) -> AsyncIterator[DaemonSet]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession() as session:
                yield DaemonSet(
                    session=session,
                    url=f"http://127.0.0.1:{port}",
                    namespace="spegel",
                    name="cleanup",
                )
        finally:
            await runner.cleanup()


async def test_the_pods_of_the_daemonset_are_asked_for() -> None:
    """By the labels that its own selector names."""
    api = Api()
    api.pods = [pod("n1"), pod("n2")]
    async with api.served() as daemonset:
        assert (await daemonset.coverage()).is_complete
    query = "app.kubernetes.io/component%3Dcleanup,app.kubernetes.io/instance%3Dmirror"
    assert api.asked == [
        "/apis/apps/v1/namespaces/spegel/daemonsets/cleanup",
        f"/api/v1/namespaces/spegel/pods?labelSelector={query}",
    ]


@pytest.mark.parametrize(
    ("wanted", "pods", "says"),
    [
        (2, [pod("n1"), pod("n2")], "2 of 2 nodes are done"),
        (0, [], "0 of 0 nodes are done"),
        (2, [pod("n1")], "1 of 2 nodes are done"),
        (
            2,
            [pod("n1"), pod("n2", is_ready=False)],
            "1 of 2 nodes are done; not done: n2 (its Pod is Pending)",
        ),
        (
            2,
            [pod("n1"), pod("n2", is_ready=False, is_bound=False)],
            "1 of 2 nodes are done; not done: n2 (its Pod is Pending)",
        ),
        (
            1,
            [
                pod(
                    "n1",
                    is_ready=False,
                    containerStatuses=[
                        {"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
                    ],
                )
            ],
            "0 of 1 nodes are done; not done: n1 (ErrImagePull: not found)",
        ),
        (
            1,
            [pod("n1", is_ready=False) | {"spec": {}}],
            f"0 of 1 nodes are done; not done: {daemonset.UNKNOWN_NODE} (its",
        ),
        (
            1,
            [pod("n1"), pod("n1", is_ready=False) | {"metadata": {"deletionTimestamp": "now"}}],
            "1 of 1 nodes are",
        ),
    ],
)
def test_a_node_is_done_when_its_pod_is_ready(
    wanted: int, pods: list[dict[str, Any]], says: str
) -> None:
    """A node without a running Pod is missing, and is named if its name is known."""
    found = coverage(wanted, pods)
    assert str(found).startswith(says)
    assert found.is_complete is ("not done" not in says and len(found.ready) == wanted)


async def test_an_api_server_that_refuses_or_is_away_is_an_error() -> None:
    """The error has the question and its result; a new DaemonSet counts no nodes yet."""
    api = Api()
    async with api.served() as daemonset:
        api.status = 403
        with pytest.raises(ClusterError, match=r"daemonsets/cleanup answered 403: .*no such thing"):
            await daemonset.coverage()
        api.status, api.generation = 200, 0
        with pytest.raises(ClusterError, match="has not been looked at by Kubernetes yet"):
            await daemonset.coverage()
    async with aiohttp.ClientSession() as session:
        away = DaemonSet(
            session=session, url="http://127.0.0.1:1", namespace="spegel", name="cleanup"
        )
        with pytest.raises(ClusterError, match="does not answer"):
            await away.coverage()


async def test_it_waits_until_all_nodes_are_done() -> None:
    """Also through an API server that does not answer for a while, and nodes that come late."""
    api = Api()
    api.status = 500
    async with api.served() as daemonset:
        waiting = asyncio.create_task(wait_for_daemonset(daemonset, period=0.01, give_up=20))
        while len(api.asked) < 2:
            await asyncio.sleep(0.01)
        api.status, api.pods = 200, [pod("n1")]
        count = len(api.asked)
        while len(api.asked) < count + 4:
            await asyncio.sleep(0.01)
        assert not waiting.done()
        api.pods.append(pod("n2"))
        await asyncio.wait_for(waiting, 10)


async def test_it_gives_up_with_the_names_of_the_nodes() -> None:
    """Only when no further node was done for so long; a reason that changes all the time is no
    progress.
    """
    api = Api()
    api.pods = [pod("n1"), pod("n2", is_ready=False)]
    reasons = itertools.cycle(["ErrImagePull", "ImagePullBackOff"])

    async def change() -> None:
        while True:
            api.pods[1] = pod("n2", is_ready=False, phase=next(reasons))
            await asyncio.sleep(0.005)

    changing = asyncio.create_task(change())
    async with api.served() as daemonset:
        with pytest.raises(
            HostError, match=r"not done: n2 \(its Pod is .*\); no further node was done for 0.3 s"
        ):
            await asyncio.wait_for(wait_for_daemonset(daemonset, period=0.01, give_up=0.3), 10)
    changing.cancel()


async def test_each_node_that_is_done_gives_the_others_more_time() -> None:
    """A large cluster may take longer in all than a node may take."""
    api = Api()
    api.wanted = 12
    async with api.served() as daemonset:
        waiting = asyncio.create_task(wait_for_daemonset(daemonset, period=0.01, give_up=2))
        for number in range(12):
            api.pods.append(pod(f"n{number}"))
            await asyncio.sleep(0.2)
        await asyncio.wait_for(waiting, 10)


async def test_outside_of_a_pod_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is missing, or the environment that leads to the API server."""
    with pytest.raises(ConfigError, match=r"no account of Kubernetes in .*; run it as a Pod"):
        async with daemonset.connected("spegel", "cleanup", account=tmp_path):
            raise AssertionError
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.crt").write_bytes(Path("/etc/ssl/certs/ca-certificates.crt").read_bytes())
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(
        ConfigError, match="KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set"
    ):
        async with daemonset.connected("spegel", "cleanup", account=tmp_path):
            raise AssertionError
