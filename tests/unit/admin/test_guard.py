"""Under which names the metrics port shows what it shows to people."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from spegel_py.admin.admin_app import State, create_admin_app
from spegel_py.admin.guard import check_host, guard_hosts
from spegel_py.errors import Denied
from spegel_py.metrics import NodeMetrics
from spegel_py.registry.server import serve

KNOWN = {"localhost", "node-1", "spegel.example"}


@pytest.mark.parametrize(
    "host",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:9090",
        "10.0.0.2:9090",
        "[::1]:9090",
        "[fd00::1]",
        "localhost:19090",
        "LOCALHOST",
        "node-1:9090",
        "spegel.example",
        "Spegel.Example.:80",
    ],
)
def test_addresses_and_known_names_are_answered(host: str) -> None:
    """With any port; and so is a client that sends no name."""
    check_host(host, KNOWN)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:9090",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "node-1.evil.example:9090",
        "[evil.example]:9090",
        "evil.example:127.0.0.1",
        ":9090",
        "[",
        "\xff",
        "2130706433.",
    ],
)
def test_any_other_name_is_refused(host: str) -> None:
    """A page of that name may have made it lead here."""
    with pytest.raises(Denied, match="--debug-hosts"):
        check_host(host, KNOWN)


async def test_only_metrics_are_answered_under_any_name() -> None:
    """What is read and what is done below /debug is refused under a name that is not the node's."""

    async def state() -> State:
        return {"ready": True}

    async def measure(_: web.Request) -> web.Response:
        return web.Response(text="done")

    app = create_admin_app(
        render=NodeMetrics().render,
        state=state,
        routes=[web.post("/debug/measure", measure)],
        guard=[guard_hosts(["Spegel.example:443", ""])],
    )
    async with (
        serve(app, "127.0.0.1:0") as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def ask(method: str, path: str, host: str) -> int:
            headers = {"Host": host, "Origin": f"http://{host}"}
            async with session.request(method, path, headers=headers) as response:
                if response.status == 403:
                    [error] = (await response.json())["errors"]
                    assert error["code"] == "DENIED"
                return response.status

        for host, status in (("evil.example", 403), ("spegel.example", 200), ("127.0.0.1:1", 200)):
            assert await ask("GET", "/debug/state", host) == status
            assert await ask("GET", "/%64ebug/state", host) == status
            assert await ask("POST", "/debug/measure", host) == status
            assert await ask("GET", "/metrics", host) == 200
