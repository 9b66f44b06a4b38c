"""First peers: accepted and refused addresses, and the effect of a source that is away."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from unittest import mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from spegel_py.errors import ConfigError
from spegel_py.routing.libp2p import bootstrap_targets
from spegel_py.routing.libp2p.bootstrap import DnsBootstrap, HttpBootstrap, StaticBootstrap, id_app
from spegel_py.routing.libp2p.bootstrap_targets import (
    Resolver,
    Target,
    check_domain,
    check_url,
    resolved,
)

PEER = "12D3KooWLz3WwUCHbeEfwp3B3ToBHQg2ii4QZcPU9uPt3xePryuL"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/10.0.0.1/tcp/5001", Target("/ip4/10.0.0.1/tcp/5001")),
        (f"/ip4/10.0.0.1/tcp/5001/p2p/{PEER}", Target("/ip4/10.0.0.1/tcp/5001", PEER)),
        ("/ip6/fd00::1/tcp/5001", Target("/ip6/fd00::1/tcp/5001")),
        ("/ip4/10.0.0.1", Target("/ip4/10.0.0.1/tcp/7777")),
    ],
    ids=["plain", "with id", "v6", "port left out"],
)
async def test_static_peers_need_neither_id_nor_port(text: str, expected: Target) -> None:
    """A multiaddr is taken as it is; a missing port is our own router's."""
    assert await StaticBootstrap([text], router_port=7777).find() == [expected]


async def test_static_names_are_resolved() -> None:
    """A host name in a multiaddr becomes its addresses."""
    found = await StaticBootstrap(["/dns4/localhost/tcp/5001"], router_port=1).find()
    assert Target("/ip4/127.0.0.1/tcp/5001") in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1:5001",
        "/ip4/300.0.0.1/tcp/1",
        "/unix/x",
        "/ip4/10.0.0.1/udp/1",
        "/ip4",
        "/dns/" + "a" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_multiaddr_is_named(text: str) -> None:
    """A malformed static peer is a start-up error that names it and its flag."""
    with pytest.raises(ConfigError, match="--static-bootstrap-peers"):
        StaticBootstrap([text], router_port=1)


@pytest.mark.parametrize(
    "text", ["", "bad name", "-..x", "a" * 64 + ".example", "http://x.example", "ü.example"]
)
def test_what_is_no_dns_name_is_named(text: str) -> None:
    """A malformed name is a start-up error."""
    with pytest.raises(ConfigError, match="DNS name"):
        check_domain(text, flag="--dns-bootstrap-domain")


async def test_a_name_that_cannot_be_one_finds_nobody() -> None:
    """The resolver raises another error for it than for a name that is not there."""
    names = ["/dns/a.example/tcp/1", "/ip4/1.2.3.4/tcp/1"]

    def refuse(*_: object, **__: object) -> None:
        raise UnicodeError("label too long")

    with mock.patch.object(socket, "getaddrinfo", refuse):
        assert await resolved(names, 5001, Resolver()) == [Target("/ip4/1.2.3.4/tcp/1")]


@pytest.mark.parametrize(
    "text", ["", "x.example/id", "ftp://x.example", "http://", "http://[", "http://x.example:port"]
)
def test_what_is_no_url_is_named(text: str) -> None:
    """A malformed URL is a start-up error."""
    with pytest.raises(ConfigError, match="URL"):
        check_url(text, flag="--http-bootstrap-url")


async def test_a_name_that_does_not_resolve_finds_nobody() -> None:
    """DNS that is away is no error: it is asked again later."""
    assert await DnsBootstrap("nobody.invalid", router_port=1, rng=random.Random(1)).find() == []


async def test_a_name_server_that_hangs_finds_no_peer_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lookup is given up after its deadline and logged once; a late answer counts."""
    asked, answer = [0], threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        asked[0] += 1
        assert answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(bootstrap_targets, "DNS_TIMEOUT", 0.1)
    source = DnsBootstrap("seeds.example", router_port=7777, rng=random.Random(1))
    async with asyncio.timeout(5):
        with capture_logs() as logs:
            assert [await source.find(), await source.find()] == [[], []]
        assert [each["event"] for each in logs if each["log_level"] == "warning"] == [
            "bootstrap name does not resolve"
        ]
        answer.set()
        while not (found := await source.find()):
            pass
    assert found == [Target("/ip4/10.0.0.1/tcp/7777")]
    assert asked == [1]


async def test_dns_gives_all_addresses_with_our_own_port() -> None:
    """Every address of a name is a target at the router's port."""
    found = await DnsBootstrap("localhost", router_port=7777, rng=random.Random(1)).find()
    assert Target("/ip4/127.0.0.1/tcp/7777") in found


async def test_http_reads_what_id_serves() -> None:
    """One node's `/id` is another node's first peer, id and all."""
    server = TestServer(
        id_app(lambda: [f"/ip4/10.0.0.1/tcp/5001/p2p/{PEER}", f"/ip6/fd00::1/tcp/5001/p2p/{PEER}"])
    )
    async with server:
        for path in ("/id", "/", ""):  # Spegel is given a URL without the path
            found = await HttpBootstrap(
                str(server.make_url("/")).rstrip("/") + path, router_port=1
            ).find()
            assert found == [
                Target("/ip4/10.0.0.1/tcp/5001", PEER),
                Target("/ip6/fd00::1/tcp/5001", PEER),
            ]


async def test_id_is_served_as_spegel_reads_it() -> None:
    """One object with the id and the addresses, not a list."""
    async with TestClient(
        TestServer(id_app(lambda: [f"/ip4/10.0.0.1/tcp/5001/p2p/{PEER}"]))
    ) as client:
        answer = await client.get("/id")
        assert await answer.json() == {"ID": PEER, "Addrs": ["/ip4/10.0.0.1/tcp/5001"]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"5",
        b"[1]",
        b'[{"ID": "x", "Addrs": ["/ip4/1.2.3.4/tcp/1"]}]',
        b'[{"Addrs": 5}]',
        b"<html>",
        b"[" * 100_000,
        b'{"ID": "%s", "Addrs": ["/ip4/1.2.3.4/tcp/1"]}' % (b"Q" * 900_000),
        b'{"Addrs": ["/ip4/1.2.3.4/tcp/1/p2p/%s"]}' % (b"Q" * 900_000),
        b'{"Addrs": ["dns/s/p2p/87tmPooWH36cvtmQDc298L3"]}',
    ],
    ids=lambda body: body[:40].decode(),
)
async def test_a_strange_answer_finds_nobody(body: bytes) -> None:
    """An `/id` that answers garbage is no error and no peer."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/id", answer)
    async with TestServer(app) as server:
        assert await HttpBootstrap(str(server.make_url("/id")), router_port=1).find() == []


async def test_an_id_may_be_missing() -> None:
    """Spegel's bootstrap services may leave the id out."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps([{"ID": "", "Addrs": ["/ip4/1.2.3.4"]}]))

    app = web.Application()
    app.router.add_get("/id", answer)
    async with TestServer(app) as server:
        found = await HttpBootstrap(str(server.make_url("/id")), router_port=5001).find()
    assert found == [Target("/ip4/1.2.3.4/tcp/5001")]
