"""Listening and ending: addresses, errors of operators, draining."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
from aiohttp import web

from spegel_py.admin.admin_app import State, create_admin_app
from spegel_py.errors import ConfigError
from spegel_py.metrics import NodeMetrics
from spegel_py.registry.server import parse_address, serve
from spegel_py.telemetry.metrics import MAX_REGISTRIES
from tests.unit.registry.conftest import Node, NodeFactory
from tests.unit.registry.raw import RawClient


@pytest.fixture
def app() -> web.Application:
    async def state() -> State:
        return {"ready": True}

    return create_admin_app(render=NodeMetrics().render, state=state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":5000", ("", 5000)),
        ("0.0.0.0:5000", ("0.0.0.0", 5000)),
        ("[::]:5000", ("::", 5000)),
        ("[fd00::1]:5000", ("fd00::1", 5000)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_read(text: str, expected: tuple[str, int]) -> None:
    """An address is a host, which may be empty or in brackets, and a port."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5000", "host", "host:", ":70000", "::1:5000", ":http", ":-1", ":５"]
)
def test_what_is_no_address_is_a_config_error(text: str) -> None:
    """What cannot be listened on is refused with the text in the message."""
    with pytest.raises(ConfigError, match="not an address"):
        parse_address(text)


@pytest.mark.parametrize("address", [":0", "[::]:0"])
@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
async def test_all_addresses_are_v4_and_v6(app: web.Application, address: str, target: str) -> None:
    """`:port` and `[::]:port` serve both families on one port."""
    async with serve(app, address) as port:
        reader, writer = await asyncio.open_connection(target, port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.0 200")
        writer.close()


async def test_one_address_is_one_address(app: web.Application) -> None:
    """A v4 address is not served on v6."""
    async with serve(app, "127.0.0.1:0") as port:
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("::1", port)


@pytest.mark.parametrize("host", ["127.0.0.1", "", "[::]"])
async def test_a_port_in_use_is_a_config_error(app: web.Application, host: str) -> None:
    """A port that somebody else has is one clear line with the address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        address = f"{host}:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match="in use") as refused:
            async with serve(app, address):
                pass
    assert address in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "reason"), [("192.0.2.1", "not one of this machine"), ("no.invalid", "no such host")]
)
async def test_a_foreign_address_is_a_config_error(
    app: web.Application, host: str, reason: str
) -> None:
    """An address that is not ours, or a name that does not exist, is one clear line."""
    with pytest.raises(ConfigError, match=reason):
        async with serve(app, f"{host}:0"):
            pass


async def test_a_transfer_under_way_may_finish(start: NodeFactory) -> None:
    """At the end nobody new is let in, but a transfer under way is finished within the drain
    time.
    """
    data = b"x" * 20_000_000
    async with start(drain=5) as node:
        digest = node.store.add(data)
        client = await RawClient.connect(node.port)
        client.writer.write(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        reading = asyncio.ensure_future(client.reader.readexactly(len(data)))
    assert await reading == data
    client.close()


async def test_a_transfer_that_does_not_end_is_cut_clean(start: NodeFactory) -> None:
    """A client that is too slow for the drain time gets a short body and a FIN."""
    async with start(drain=0.2) as node:
        digest = node.store.add(b"x" * 64_000_000)
        client = await RawClient.connect(node.port)
        client.writer.write(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1.5
    assert 0 < len(await client.end()) < 64_000_000
    client.close()


async def test_a_silent_connection_does_not_hold_up_the_end(node: Node) -> None:
    """A connection that never asks anything is closed at the end, not waited for."""
    await node.client()


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 says that it accepts."""


async def test_the_metrics_page(app: web.Application) -> None:
    """`/metrics` is OpenMetrics for those who accept it, and Prometheus text for the others;
    elsewhere 404.
    """
    async with serve(app, "127.0.0.1:0") as port:
        client = await RawClient.connect(port)
        text = await client.ask("GET", "/metrics")
        assert text.headers["content-type"].startswith("text/plain")
        assert b"spegel_mirror_last_success_timestamp_seconds" in text.body
        assert b"process_open_fds" in text.body
        openmetrics = await client.ask("GET", "/metrics", f"Accept: {PROMETHEUS}")
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.body.endswith(b"# EOF\n")
        assert (await client.ask("GET", "/debug")).error["code"] == "UNSUPPORTED"
        assert (await client.ask("POST", "/metrics")).status == 405
        client.close()


async def test_http_metrics_have_few_labels(start: NodeFactory) -> None:
    """Requests are counted by handler, method and status, none of which a client can invent."""
    async with start() as node:
        client = await node.client()
        for target in (
            "/v2/",
            "/livez",
            "/v2/a/manifests/x?ns=r.io",
            "/v2/a/blobs/x",
            "/zzz",
            "/v2/a/b/c",
        ):
            await client.ask("GET", target)
        await client.ask("DELETE", "/v2/")
        assert await node.counted("http_request_duration_seconds_count") == {
            ("v2", "GET", "200"): 1,
            ("livez", "GET", "200"): 1,
            ("manifests", "GET", "404"): 1,
            ("blobs", "GET", "400"): 1,
            ("other", "GET", "404"): 2,
            ("v2", "other", "405"): 1,
        }
        assert await node.counted("http_requests_inflight") == {}


async def test_a_client_cannot_grow_the_metrics(start: NodeFactory) -> None:
    """Registries get a label each up to a limit, and none when they are invalid."""
    async with start() as node:
        client = await node.client()
        for number in range(MAX_REGISTRIES + 5):
            await client.ask("HEAD", f"/v2/a/manifests/x?ns=r{number}.io")
        await client.ask("HEAD", "/v2/a/manifests/x?ns=%00")
        counted = await node.counted("spegel_mirror_requests_total")
        assert len(counted) == MAX_REGISTRIES + 1
        assert counted["other", "miss"] == 5


def test_gauges_are_asked_when_they_are_read() -> None:
    """Peers, records, queues and images are read from their owners at every scrape."""
    metrics, peers = NodeMetrics(), ["a", "b", "c"]
    images = ["r.io/app@sha256:1", "r.io/app@sha256:2", "s.io/app@sha256:1", "s.io/app:1"]
    metrics.mirror.watch(quarantined=lambda: 2)
    metrics.watch_queues({"advertise": lambda: 5})
    metrics.watch_tls(lambda: 8)
    metrics.routing.watch(
        connected=lambda: peers,
        records_held=lambda: 7,
        records=lambda: {"announced": 4, "provided": 3},
        members=lambda: {"keyed": 1, "clear": 2},
        tls_members=lambda: {"encrypted": 2, "clear": 1},
        peers=lambda: {"announce": len(peers)},
        images=lambda: images,
    )
    value = metrics.registry.get_sample_value
    assert (
        value("spegel_connected_peers") == value("spegel_dht_peers", {"protocol": "announce"}) == 3
    )
    peers.clear()
    assert (
        value("spegel_connected_peers") == value("spegel_dht_peers", {"protocol": "announce"}) == 0
    )
    assert value("spegel_records_held") == 7
    assert value("spegel_quarantined_peers") == 2
    assert value("spegel_tls_members", {"kind": "encrypted"}) == 2
    assert value("spegel_peer_tls_expiry_timestamp_seconds") == 8
    assert value("spegel_queue_length", {"queue": "advertise"}) == 5
    assert [value("spegel_dht_records", {"kind": kind}) for kind in ("announced", "provided")] == [
        4,
        3,
    ]
    metrics.render("")
    assert value("spegel_advertised_image_digests", {"registry": "r.io"}) == 2
    assert value("spegel_advertised_image_digests", {"registry": "s.io"}) == 2
    del images[:2]
    assert b'spegel_advertised_image_digests{registry="r.io"}' not in metrics.render("")[0]


def test_metrics_of_two_nodes_are_apart() -> None:
    """Each Metrics has a registry of its own: two nodes in one process do not mix."""
    one, other = NodeMetrics(), NodeMetrics()
    one.routing.dropped("stale", 2)
    name = "spegel_announce_frames_dropped_total"
    assert one.registry.get_sample_value(name, {"reason": "stale"}) == 2
    assert other.registry.get_sample_value(name, {"reason": "stale"}) is None
