"""The reading of the node object, from a real HTTP server in the place of Kubernetes' API."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from spegel_py.registry.server import serve
from spegel_py.replicas.cordon_watch import (
    FOLDER,
    TAINTS,
    CordonUnknown,
    CordonWatch,
    NodeAPI,
    cordon_reason,
)

PATH = "/api/v1/nodes/worker-1"


def node(*taints: str, **spec: object) -> dict[str, Any]:
    given = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]} if taints else {}
    return {"kind": "Node", "metadata": {"name": "worker-1"}, "spec": given | spec}


@dataclass
class API:
    """The API server: it gives the node to the bearer of the right token."""

    node: object = field(default_factory=node)
    token: str = "first"
    status: int = 200
    raw: bytes | None = None
    delay: float = 0.0
    asked: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        assert request.path == PATH
        await asyncio.sleep(self.delay)
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        if self.status != 200:
            headers = {"Location": "http://192.0.2.1/"} if self.status == 302 else {}
            return web.Response(status=self.status, headers=headers)
        body = json.dumps(self.node).encode() if self.raw is None else self.raw
        return web.Response(body=body, content_type="application/json")


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[API, CordonWatch, NodeAPI]]:
    """Serve the API, and give the watch of a node with a token."""
    server = API()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    (folder / "token").write_text("first\n")
    async with serve(app, "127.0.0.1:0") as port:
        api = NodeAPI(f"http://127.0.0.1:{port}{PATH}?resourceVersion=0", folder)
        yield server, CordonWatch(api=api, rng=random.Random(7)), api


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (node(), ""),
        ({"kind": "Node", "metadata": {}}, ""),
        (node("node.kubernetes.io/not-ready", "dedicated"), ""),
        (node(unschedulable=True), "it is cordoned"),
        (node("node.kubernetes.io/unschedulable", unschedulable=True), "it is cordoned"),
        (node(TAINTS[0]), f"it has the taint {TAINTS[0]}"),
        (node(unschedulable="yes"), ""),
        (node(taints="none"), ""),
        (node(taints=[1, {}]), ""),
        (
            {"kind": "Node", "metadata": {"deletionTimestamp": "2026-11-30T00:00:00Z"}},
            "its node is being deleted",
        ),
    ],
)
def test_a_machine_that_goes_is_known_by_its_object(given: object, expected: str) -> None:
    assert cordon_reason(given) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda of: (
        st.lists(of) | st.dictionaries(st.sampled_from(["kind", "spec", "metadata", "taints"]), of)
    ),
)


@given(JSON)
def test_another_answer_is_refused(answer: object) -> None:
    with pytest.raises(CordonUnknown):
        cordon_reason(answer)


def test_the_api_is_named_by_the_environment() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    url = "https://[fd00::1]:6443/api/v1/nodes/worker-1?resourceVersion=0"
    assert NodeAPI.of_cluster(environment, "worker-1") == NodeAPI(url, FOLDER)
    assert NodeAPI.of_cluster({}, "worker-1") is None


async def test_a_cordon_is_seen_and_its_end(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, watch, api):
        assert await watch.look(api)
        assert watch.reason == ""
        server.node = node(unschedulable=True)
        assert await watch.look(api)
        assert watch.reason == "it is cordoned"
        server.node = node()
        assert await watch.look(api)
        assert watch.reason == ""


async def test_a_token_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, watch, api):
        server.token = "second"
        with capture_logs() as logs:
            assert not await watch.look(api)
            (tmp_path / "token").write_text("second")
            assert await watch.look(api)
        assert [entry["event"] for entry in logs] == [
            "cordon cannot be seen",
            "cordon is seen again",
        ]
        assert logs[0]["error"] == "the API refuses the token (401)"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 403}, "the ServiceAccount may not get its node (403)"),
        ({"status": 404}, "--node-name must be Kubernetes' name"),
        ({"status": 302}, "the API answers 302"),
        ({"status": 500}, "the API answers 500"),
        ({"raw": b"{"}, "Expecting property name"),
        ({"raw": b"[" * 100_000}, "recursion"),
        ({"raw": b"\xff"}, "codec can't decode"),
        ({"raw": b"[]"}, "no node object"),
        ({"raw": b" " * 5_000_000}, "has more than"),
        ({"delay": 1.0}, "did not answer"),
    ],
)
async def test_a_fault_is_logged_once_and_changes_nothing(
    tmp_path: Path, fault: dict[str, Any], error: str
) -> None:
    async with watched(tmp_path) as (server, watch, api):
        server.node = node(unschedulable=True)
        assert await watch.look(api)
        for name, value in fault.items():
            setattr(server, name, value)
        with capture_logs() as logs, patch("spegel_py.replicas.cordon_watch.TIMEOUT", 0.3):
            for _ in range(2):
                assert not await watch.look(api)
        assert watch.reason == "it is cordoned"
        [entry] = logs
        assert error in entry["error"]


async def test_without_the_files_of_a_pod_nothing_is_asked(tmp_path: Path) -> None:
    async with watched(tmp_path) as (server, watch, api):
        (tmp_path / "token").unlink()
        assert not await watch.look(api)
        (tmp_path / "token").write_text("first")
        assert not await watch.look(NodeAPI(api.url.replace("http:", "https:"), tmp_path))
        assert server.asked == 0


async def test_an_api_that_is_away_is_asked_less_and_less(tmp_path: Path) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError

    async with watched(tmp_path) as (server, _, api):
        server.status = 503
        watch = CordonWatch(api=api, rng=random.Random(7), sleep=sleep)
        with pytest.raises(asyncio.CancelledError):
            await watch.run()
        assert server.asked == 4
        assert 15.0 <= pauses[0] <= 30.0 < pauses[-1] / 2


async def test_outside_of_a_cluster_it_says_so_and_ends() -> None:
    with capture_logs() as logs:
        await CordonWatch(api=None, rng=random.Random(7)).run()
    assert [entry["event"] for entry in logs] == ["cordon cannot be seen"]
